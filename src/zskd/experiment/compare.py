"""A cell made again, against the record that it has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zskd.core.errors import ZskdError
from zskd.evaluation.statistics import ENOUGH_TO_PREDICT, prediction_interval
from zskd.experiment.layout import Place
from zskd.experiment.record import read_record, read_records, record_path


@dataclass(frozen=True)
class Verdict:
    """What the comparison says."""

    text: str
    expected: bool
    """Whether the new result is the recorded one, or one that its arm's spread lets expect."""


def compare(place: Place, results: Path) -> Verdict:
    """Compare a cell that was made again with its record.

    The same machine and versions give the same student. Elsewhere its accuracy is to lie within the 95 %
    prediction interval that the records of its arm and rate give for one more run.

    Raises:
        ZskdError: the cell has no record there.
    """
    now = read_record(place.record)
    path = record_path(results, now.experiment, now.cell)
    if not path.is_file():
        raise ZskdError(f"{path} is missing: --again compares with it; without --again it is made")
    then = read_record(path)
    told = f"{now.cell}: {then.test_accuracy:.2f} recorded, {now.test_accuracy:.2f} made again {now.date}"
    if now.student_sha256 == then.student_sha256:
        return Verdict(f"{told}: identical, weight for weight", True)
    same = [
        record.test_accuracy
        for record in read_records(results, then.experiment)
        if (record.arm, record.rate) == (then.arm, then.rate)
    ]
    interval = prediction_interval(same) if len(same) >= ENOUGH_TO_PREDICT else None
    if interval is None:
        return Verdict(
            f"{told}: another student; {len(same)} records are too few to say what to expect", True
        )
    inside = interval[0] <= now.test_accuracy <= interval[1]
    where = f"the 95 % prediction interval [{interval[0]:.2f}, {interval[1]:.2f}] of {len(same)} records"
    return Verdict(f"{told}: another student, {'inside' if inside else 'OUTSIDE'} {where}", inside)
