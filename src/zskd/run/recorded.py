"""What the run of a student recorded about it."""

from __future__ import annotations

from pathlib import Path

from zskd.evaluation.agreement import EstimateRecord
from zskd.run.metrics import ArmMetrics, RunMetrics, metrics_of


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
    return metrics_of(run) if known else None


def results_of(student: Path, metrics: RunMetrics, sha256: str | None = None) -> ArmMetrics | None:
    """Return the results of a student of a run; None for a folder that the metrics do not know.

    Args:
        student: folder of its checkpoint.
        metrics: of the run.
        sha256: fingerprint of the network that is in the folder now, which results must be about; None: any.
    """
    found = metrics.students.get(student.resolve().name)
    if found is not None and None not in (sha256, found.sha256) and found.sha256 != sha256:
        return None  # another network has taken its place
    return found


def recorded_estimate(
    student: Path, *, sha256: str | None = None, teacher_sha256: str | None = None
) -> EstimateRecord | None:
    """Return the estimate without data in the metrics of a student's run; None where there is none.

    Args:
        student: folder of its checkpoint.
        sha256: as for `results_of`.
        teacher_sha256: fingerprint of the teacher that it must be about; None: that of the run.

    Raises:
        ZskdError: the metrics are damaged.
    """
    metrics = recorded_run(student)
    if metrics is None or teacher_sha256 not in (None, metrics.teacher.sha256):
        return None
    found = results_of(student, metrics, sha256)
    return None if found is None else found.estimated_agreement
