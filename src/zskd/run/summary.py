"""The tables of a finished run and the sentences that explain them, for its page and for a terminal."""

from __future__ import annotations

from pathlib import Path

from zskd.config.registry import CONTROLS
from zskd.core.passes import StagePasses
from zskd.core.progress import readable_seconds
from zskd.core.tables import aligned_table
from zskd.distillation.sizes import is_size
from zskd.evaluation.gain import gain_table
from zskd.evaluation.statistics import Share
from zskd.run.metrics import METRICS, ArmMetrics, RunMetrics, SizeMetrics, read_metrics

_KINDS = {
    "impressions": "held-out impressions",
    **{name: control.summary for name, control in CONTROLS.items() if control.method == "noise"},
}
"""Kinds of images that agreement is measured on, and their names in tables."""
_HOW_TIMED = (
    "µs: one thread of this machine, each network as after export (batch-norm folded); the median of passes",
    "in which the networks took turns. ×: share of the teacher's.",
)
Table = tuple[list[str], list[list[str]]]
"""Heading and rows."""


def summary_lines(metrics: RunMetrics) -> list[str]:
    """Return the run's tables and notes for a terminal, line by line."""
    tables = [table for table in (arms_table(metrics), students_table(metrics)) if table is not None]
    return [line for table in tables for line in (*aligned_table(*table), "")] + notes(metrics)


def checkpoint_results(checkpoint: Path) -> list[str]:
    """Return what was measured of a network of a run, a sentence each; none for any other network.

    Args:
        checkpoint: folder of the teacher, or of the student of an arm.

    Raises:
        ZskdError: the metrics of the run are damaged.
    """
    folder = checkpoint.resolve()
    run = folder.parent if folder.name == "teacher" else folder.parent.parent
    if not (run / METRICS).is_file():
        return []
    metrics = read_metrics(run / METRICS)
    if folder.name == "teacher":
        return _measured(metrics.data, metrics.teacher.test_accuracy)
    found = next((arm for arm in metrics.arms if arm.arm == folder.name), None)
    if found is None:
        return []
    agreement = [
        f"Agreement with its teacher on {_KINDS.get(kind, kind)}: {share}."
        for kind, share in found.agreement.items()
    ]
    return [*_measured(metrics.data, found.test_accuracy), *agreement, *_estimated(found)]


def _measured(data: str, accuracy: Share | None) -> list[str]:
    return [] if accuracy is None else [f"Test accuracy on {data}: {accuracy}."]


def arms_table(metrics: RunMetrics) -> Table:
    """Return the table of the teacher and the arms."""
    teacher = metrics.teacher
    # metrics of older versions have no random shapes
    kinds = [kind for kind in _KINDS if kind in metrics.arms[0].agreement]
    heads = ["arm", "parameters", "images", "steps"]
    heads += [] if teacher.test_accuracy is None else ["test accuracy"]
    heads += [f"agreement on {_KINDS[kind]}" for kind in kinds]
    rows = [["teacher", f"{teacher.parameters:,}", "", "", *_share(teacher.test_accuracy)]]
    rows[0] += [""] * len(kinds)
    for arm in metrics.arms:
        row = [arm.title, f"{arm.parameters:,}", f"{arm.count:,}", f"{metrics.student_steps:,}"]
        row += _share(arm.test_accuracy)
        rows.append(row + [text for kind in kinds for text in _share(arm.agreement[kind])])
    return heads, rows


def students_table(metrics: RunMetrics) -> Table | None:
    """Return the table of what the students of the main arm cost beside their teacher, and how good they are.

    None for metrics of older versions, which did not measure it.
    """
    if metrics.gain is None:
        return None
    names, costs = ["student"], [metrics.gain.student]
    results: list[ArmMetrics] = [metrics.arms[0]]
    if metrics.sizes:
        names = [_named(one) for one in metrics.sizes]
        costs, results = [one.cost for one in metrics.sizes], [*metrics.sizes]
    heads, rows = gain_table(["teacher", *names], [metrics.gain.teacher, *costs])
    agreements = ["", *(_share(one.agreement["impressions"])[0] for one in results)]
    columns = {f"agreement on {_KINDS['impressions']}": agreements}
    if metrics.teacher.test_accuracy is not None:
        accuracies = [metrics.teacher.test_accuracy, *(one.test_accuracy for one in results)]
        columns["test accuracy"] = [text for one in accuracies for text in _share(one)]
    return [*heads, *columns], [[*row, *more] for row, *more in zip(rows, *columns.values(), strict=True)]


def _named(size: SizeMetrics) -> str:
    """Return the student's name, with that of its network where the teacher determined it."""
    return f"{size.student}: {size.network}" if is_size(size.student) else size.student


def notes(metrics: RunMetrics) -> list[str]:
    """Sentences that explain the numbers."""
    seconds = readable_seconds(sum(metrics.seconds.values()))
    small, large = metrics.student.multiply_adds, metrics.teacher.multiply_adds
    older = f"The student needs {small:,} multiply-adds per image, the teacher {large:,}."
    lines = [
        *((older,) if metrics.gain is None else _HOW_TIMED),
        f"{seconds} in all.",
        "The weights are those of the last step; nothing was selected on test images.",
        "Brackets are 95 % Wilson intervals: they cover test sampling, not the spread over seeds.",
    ]
    made = {arm.title: metrics.sets[arm.arm].outcome for arm in metrics.arms if arm.arm in metrics.sets}
    lines += [f"Images of {title}: {words}." for title, words in made.items() if words]
    lines += [f"{one.words}." for one in metrics.changes]
    lines += [line for arm in metrics.arms for line in _counted(arm)]
    lines += _estimated(metrics.arms[0])
    if metrics.teacher.test_accuracy is not None:
        return lines
    return [
        f"{metrics.accuracy}.",
        "Measured instead: agreement with the teacher on images that no student was trained on.",
        "A good student needs high agreement there, but high agreement does not prove a good student: errors",
        "of the teacher cannot be measured.",
        *lines,
    ]


def passes_table(metrics: RunMetrics) -> Table | None:
    """Return the table of all passes of a run by stage; None for metrics that do not have them."""
    if metrics.passes is None:
        return None
    heads = ["stage", *(name.replace("_", ", ") for name in StagePasses.model_fields)]
    rows = [
        [stage.replace("_", " "), *(f"{getattr(counts, name):,}" for name in StagePasses.model_fields)]
        for stage, counts in metrics.passes.items()
    ]
    return heads, rows


def _counted(arm: ArmMetrics) -> list[str]:
    """The passes for one arm; metrics of older versions have none."""
    if arm.passes is None:
        return []
    ahead, back, student = (
        sum(getattr(counts, name) for counts in arm.passes.values())
        for name in ("teacher_forward", "teacher_backward", "student")
    )
    return [
        f"Passes of {arm.title}: {ahead:,} of the teacher forward and {back:,} backward, {student:,} of the "
        "student."
    ]


def _estimated(arm: ArmMetrics) -> list[str]:
    """The estimate for real images; metrics of older versions have none."""
    found = arm.estimated_agreement
    if found is None:
        return []
    first, *others = found.words
    return [f"{arm.title}: {first}.", *(line.rstrip(".") + "." for line in others)]


def _share(value: Share | None) -> list[str]:
    """The table cell of a share; none where it was not measured."""
    return [] if value is None else [f"{value.percent:.2f} [{value.low:.2f}, {value.high:.2f}]"]
