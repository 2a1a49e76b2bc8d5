"""Compare a new run of a cell with its record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zskd.core.errors import ZskdError
from zskd.evaluation.statistics import ENOUGH_TO_PREDICT, prediction_interval
from zskd.experiment.layout import CellPaths
from zskd.experiment.record import read_record, read_records, record_path


@dataclass(frozen=True)
class Verdict:
    """Result of the comparison."""

    text: str
    """One line."""
    expected: bool
    """Whether weights are identical or the accuracy is in the prediction interval; True without one."""


def compare(paths: CellPaths, results: Path) -> Verdict:
    """Compare a new run of a cell with its record.

    The same machine and versions give the same student. Elsewhere its accuracy should lie in the 95 %
    prediction interval for one more run, computed from the records of its arm and rate.

    Args:
        paths: of the cell that was run again.
        results: folder of the records to compare with.

    Raises:
        ZskdError: either record is missing or damaged.
    """
    now = read_record(paths.record)
    path = record_path(results, now.experiment, now.cell)
    if not path.is_file():
        raise ZskdError(f"{path} is missing, and --again compares with it: leave out --again to make it")
    then = read_record(path)
    accuracies = (
        f"{now.cell}: {then.test_accuracy:.2f} recorded, {now.test_accuracy:.2f} in the new run of {now.date}"
    )
    if now.student_sha256 == then.student_sha256:
        return Verdict(f"{accuracies}: identical, weight for weight", True)
    same = [
        record.test_accuracy
        for record in read_records(results, then.experiment)
        if (record.arm, record.rate) == (then.arm, then.rate)
    ]
    interval = prediction_interval(same) if len(same) >= ENOUGH_TO_PREDICT else None
    if interval is None:
        records = f"{len(same)} records are too few, or too alike,"
        return Verdict(f"{accuracies}: another student; {records} for a prediction interval", True)
    inside = interval[0] <= now.test_accuracy <= interval[1]
    where = f"the 95 % prediction interval [{interval[0]:.2f}, {interval[1]:.2f}] of {len(same)} records"
    return Verdict(f"{accuracies}: another student, {'inside' if inside else 'OUTSIDE'} {where}", inside)
