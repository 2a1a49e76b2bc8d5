"""What the run of a student recorded about it."""

from __future__ import annotations

from pathlib import Path

from zskd.evaluation.agreement import EstimateRecord
from zskd.run.arms import folder_name
from zskd.run.metrics import METRICS, ArmMetrics, RunMetrics, read_metrics


def recorded_run(checkpoint: Path) -> RunMetrics | None:
    """Return the metrics of the run that a teacher or student is from; None for one outside of a run.

    Args:
        checkpoint: folder of the teacher, or of a student.

    Raises:
        ZskdError: the metrics are damaged.
    """
    folder = checkpoint.resolve()
    run = folder.parent if folder.name == "teacher" else folder.parent.parent
    known = folder.name == "teacher" or folder.parent.name == "students"
    return read_metrics(run / METRICS) if known and (run / METRICS).is_file() else None


def results_of(student: Path, metrics: RunMetrics) -> ArmMetrics | None:
    """Return the results of a student of a run; None for a folder that the metrics do not know.

    Args:
        student: folder of its checkpoint.
        metrics: of the run.
    """
    students: dict[str, ArmMetrics] = {arm.arm: arm for arm in metrics.arms}
    for one in metrics.sizes[1:]:  # the first is that of the main arm
        students[folder_name(f"{one.arm}@{one.student}", students)] = one
    return students.get(student.resolve().name)


def recorded_estimate(student: Path, *, teacher_sha256: str | None = None) -> EstimateRecord | None:
    """Return the estimate without data in the metrics of a student's run; None where there is none.

    Args:
        student: folder of its checkpoint.
        teacher_sha256: fingerprint of the teacher that it must be about; None: that of the run.

    Raises:
        ZskdError: the metrics are damaged.
    """
    metrics = recorded_run(student)
    if metrics is None or teacher_sha256 not in (None, metrics.teacher.sha256):
        return None
    found = results_of(student, metrics)
    return None if found is None else found.estimated_agreement
