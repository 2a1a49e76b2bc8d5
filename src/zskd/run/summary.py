"""What a finished run tells in a terminal: its tables, and sentences that explain them, for its page, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from zskd.core.energy import MEASURED, readable_joules
from zskd.core.progress import readable_seconds
from zskd.evaluation.agreement import NO_GRADIENT, NOT_ESTIMATED
from zskd.evaluation.statistics import Share
from zskd.run.metrics import ArmMetrics, RunMetrics
from zskd.run.recorded import recorded_run, results_of
from zskd.run.tables import KINDS, agreement_table, costs_table, results_table, sizes_table
from zskd.teacher.sources import SourceHashes

_HOW_TIMED = (
    "µs: one thread of this machine, each network as after export (batch-norm folded); the median of passes",
    "in which the networks took turns. ×: share of the teacher's.",
)
_JOULES = (
    "Joules are those of the machine's processors: of everything that ran on them at the time, without "
    "memory and GPU cards."
)


def summary_lines(metrics: RunMetrics, *, styled: bool = False) -> list[str]:
    """Return the run's tables and notes for a terminal, line by line.

    Args:
        metrics: of the run.
        styled: with escape codes for bold letters.
    """
    tables = [results_table(metrics), sizes_table(metrics), agreement_table(metrics), costs_table(metrics)]
    lines = [line for one in tables if one is not None for line in (*one.lines(styled=styled), "")]
    return lines + notes(metrics)


def checkpoint_results(checkpoint: Path, sha256: str | None = None) -> list[str]:
    """Return what was measured of a network of a run, a sentence each; none for any other network.

    Args:
        checkpoint: folder of the teacher, or of a student.
        sha256: fingerprint of the network that is in it now, which the results must be about; None: any.

    Raises:
        ZskdError: the metrics of the run are damaged.
    """
    metrics = recorded_run(checkpoint)
    if metrics is None:
        return []
    if checkpoint.resolve().name == "teacher":
        if sha256 not in (None, metrics.teacher.sha256):
            return []
        return _measured(metrics.data, metrics.teacher.test_accuracy)
    found = results_of(checkpoint, metrics, sha256)
    if found is None:
        return []
    agreement = [
        f"Agreement with its teacher on {KINDS.get(kind, kind)}: {share}."
        for kind, share in found.agreement.items()
    ]
    return [*_measured(metrics.data, found.test_accuracy), *agreement, *_estimated(found, metrics.sources)]


def _measured(data: str, accuracy: Share | None) -> list[str]:
    return [] if accuracy is None else [f"Test accuracy on {data}: {accuracy}."]


def notes(metrics: RunMetrics) -> list[str]:
    """Sentences that explain the numbers."""
    small, large = metrics.student.multiply_adds, metrics.teacher.multiply_adds
    older = f"The student needs {small:,} multiply-adds per image, the teacher {large:,}."
    lines = [
        _shared(metrics),
        *((older,) if metrics.gain is None else _HOW_TIMED),
        f"{_by_stage(metrics.seconds, readable_seconds)}.",
        *_energy(metrics),
        "The weights are those of the last step; nothing was selected on test images.",
        "Brackets of measured shares are 95 % Wilson intervals: they cover test sampling, not the spread "
        "over seeds.",
    ]
    made = {arm.title: metrics.sets[arm.arm].outcome for arm in metrics.arms if arm.arm in metrics.sets}
    lines += [f"Images of {title}: {words}." for title, words in made.items() if words]
    lines += [f"{one.words}." for one in metrics.changes]
    lines += [line for arm in metrics.arms for line in _counted(arm)]
    lines += _estimated(metrics.arms[0], metrics.sources)
    if metrics.teacher.test_accuracy is not None:
        return lines
    return [
        f"{metrics.accuracy}.",
        "Measured instead: agreement with the teacher on images that no student was trained on.",
        "A good student needs high agreement there, but high agreement does not prove a good student: errors",
        "of the teacher cannot be measured.",
        *lines,
    ]


def energy_words(metrics: RunMetrics) -> str:
    """Return what the joules of a run stand for, and why some or all are not known, in sentences."""
    known = _JOULES if metrics.joules else ""
    if metrics.energy_known:
        return known
    why = metrics.energy or "the version that made this run did not measure it"
    if why == MEASURED:
        why = "a part of the run was made while the energy counters could not be read"
    return f"{known} Energy is not known{' of every stage' if known else ''}: {why}.".lstrip()


def _energy(metrics: RunMetrics) -> list[str]:
    """The energy of the stages; a terminal does not tell that it is not known."""
    if not metrics.energy_known:
        return []
    return [f"{_by_stage(metrics.joules, readable_joules)}. {energy_words(metrics)}"]


def _by_stage(spent: Mapping[str, float], readable: Callable[[float], str]) -> str:
    """Return what the stages took, those of the sets together, and all that is known of."""
    stages: dict[str, float] = {}
    for stage, amount in spent.items():
        name = "images" if stage.startswith("set ") else stage
        stages[name] = stages.get(name, 0.0) + amount
    each = ", ".join(f"{name} {readable(amount)}" for name, amount in stages.items() if amount >= 1)
    return f"{readable(sum(spent.values()))} in all{f': {each}' if each else ''}"


def _shared(metrics: RunMetrics) -> str:
    """Return what is the same for all arms."""
    of_each = {arm.parameters for arm in metrics.arms}
    size = f" and has {of_each.pop():,} parameters" if len(of_each) == 1 else ""
    # with epochs, a set from which images were dropped has fewer steps
    whose = "each arm" if len({arm.count for arm in metrics.arms}) == 1 else metrics.arms[0].title
    return (
        f"The student of {whose} takes {metrics.student_steps:,} steps{size}; the teacher has "
        f"{metrics.teacher.parameters:,} parameters."
    )


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


def _estimated(arm: ArmMetrics, sources: SourceHashes) -> list[str]:
    """The estimate for real images; metrics of older versions have none."""
    found = arm.estimated_agreement
    if found is None:
        of_pictures = sources.images_sha256 or sources.few_sha256
        reason = NOT_ESTIMATED if of_pictures else NO_GRADIENT if "impressions" not in arm.agreement else None
        return [f"{arm.title}: {reason}."] if reason else []
    first, *others = found.words
    return [f"{arm.title}: {first}.", *(line.rstrip(".") + "." for line in others)]
