"""What the run of a student recorded about it."""

from __future__ import annotations

from pathlib import Path

from zskd.evaluation.agreement import EstimateRecord
from zskd.run.arms import folder_name
from zskd.run.metrics import METRICS, ArmMetrics, read_metrics


def recorded_estimate(student: Path) -> EstimateRecord | None:
    """Return the estimate without data in the metrics of a student's run; None for one outside of a run.

    Args:
        student: folder of its checkpoint.

    Raises:
        ZskdError: the metrics are damaged.
    """
    folder = student.resolve()
    metrics = folder.parent.parent / METRICS
    if folder.parent.name != "students" or not metrics.is_file():
        return None
    found = read_metrics(metrics)
    students: dict[str, ArmMetrics] = {arm.arm: arm for arm in found.arms}
    for one in found.sizes[1:]:  # the first is that of the main arm
        students[folder_name(f"{one.arm}@{one.student}", students)] = one
    return students[folder.name].estimated_agreement if folder.name in students else None
