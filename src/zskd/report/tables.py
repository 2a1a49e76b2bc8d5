"""Results as comma-separated values, for other programs."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO

from zskd.evaluation.statistics import Share
from zskd.experiment.report.tables import Records
from zskd.run.metrics import RunMetrics

_OF_RECORD = (
    "experiment",
    "cell",
    "arm",
    "title",
    "rate",
    "seed",
    "count",
    "student",
    "student_parameters",
    "student_steps",
    "test_accuracy",
    "test_images",
    "teacher_accuracy",
    "teacher_agreement",
    "wall_seconds",
    "date",
    "commit",
)
_OF_RUN = ("arm", "title", "measure", "percent", "low", "high", "n")


def run_csv(metrics: RunMetrics) -> str:
    """Return every measured share of a run, one in a line."""
    return _csv(_OF_RUN, _shares(metrics))


def records_csv(records: Records) -> str:
    """Return every record of an experiment, one in a line, with its reported value."""
    rows = (
        (*(getattr(one, name) for name in _OF_RECORD), "" if one.reported is None else one.reported.value)
        for one in records
    )
    return _csv((*_OF_RECORD, "reported"), rows)


def _shares(metrics: RunMetrics) -> Iterator[tuple[object, ...]]:
    def row(arm: str, title: str, measure: str, share: Share | None) -> Iterator[tuple[object, ...]]:
        if share is not None:
            yield arm, title, measure, share.percent, share.low, share.high, share.n

    teacher = metrics.teacher
    yield from row("teacher", "teacher", "test accuracy", teacher.test_accuracy)
    yield from row("teacher", "teacher", "validation accuracy", teacher.validation_accuracy)
    arms = [(arm.arm, arm.title, arm) for arm in metrics.arms]
    sizes = metrics.sizes[1:]  # the first is the student of the main arm
    for name, title, one in [*arms, *((size.student, size.network, size) for size in sizes)]:
        yield from row(name, title, "test accuracy", one.test_accuracy)
        yield from row(name, title, "validation accuracy", one.validation_accuracy)
        for kind, share in one.agreement.items():
            yield from row(name, title, f"agreement on {kind}", share)


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return stream.getvalue()
