"""How often a student gives its teacher's class on real images, estimated without any.

The law: students disagree with their teacher on real images in proportion to the share of its margins on
class impressions that they miss. It holds for teachers whose class impressions keep their margin when they
are moved, as those of the data sets that it was fitted on do. For others there is only a bracket: as much
disagreement as on noise, or as the law allows, at worst; as little as it allows at best. docs/estimate.md
tells how far to trust either. The numbers are in agreement.json, made by `studies/signals.py` from
results/signal.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from zskd.core.artefact import Artefact
from zskd.evaluation.probes import Probes, Signals, make_probes, measure
from zskd.models.classifier import Classifier

WEAKEST = 3
"""So many classes are named."""
UNSEEN = "The teacher's own errors cannot be seen: where it is wrong, agreement with it is an error too."


@dataclass(frozen=True)
class Law:
    """What was fitted, and on what."""

    factor: float
    """Percentage points of disagreement for each hundredth of the margins that is missed."""
    spread: float
    """The interval reaches from the estimated disagreement divided by this to it times this."""
    unexplained: tuple[float, float]
    """Least that was missed by a student that it was fitted on, and up to what it is trusted."""
    fragility: float
    """Loss of the teacher's margins up to which it is trusted."""
    classes: tuple[int, ...]
    """Numbers of classes of these teachers."""
    channels: tuple[int, ...]
    """Channels of their images."""
    data: tuple[str, ...]
    """Data sets that it was fitted on."""


@dataclass(frozen=True)
class Estimate:
    """Agreement on real images in percent."""

    percent: float | None
    """The estimate; None where the law does not reach."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    weakest: tuple[str, ...]
    """Classes on which the student is probably furthest from its teacher, the worst first."""
    reason: str | None
    """Why there is no estimate, and the interval is a wide bracket."""
    signals: Signals
    """What it was made of."""

    def lines(self) -> list[str]:
        """Return it in words."""
        interval = f"[{self.low:.1f}, {self.high:.1f}]"
        head = "agreement with the teacher on real images, estimated without any:"
        if self.percent is None:
            said = [f"{head} no number, somewhere in {interval} %", f"Why no number: {self.reason}."]
        else:
            said = [f"{head} {self.percent:.1f} % {interval}"]
        if self.weakest:
            said.append(f"weakest classes, as far as noise can tell: {', '.join(self.weakest)}")
        return [*said, UNSEEN]

    def record(self) -> EstimateRecord:
        """Return numbers and words as a JSON file holds them."""
        return EstimateRecord(
            percent=self.percent,
            low=self.low,
            high=self.high,
            weakest=self.weakest,
            reason=self.reason,
            signals=self.signals,
            words=tuple(self.lines()),
        )


class EstimateRecord(Artefact):
    """An estimate in a file; the fields are those of `Estimate`."""

    percent: float | None
    low: float
    high: float
    weakest: tuple[str, ...]
    reason: str | None
    signals: Signals
    words: tuple[str, ...]
    """The same in sentences."""


@cache
def fitted_law() -> Law:
    """Return what was fitted."""
    values: dict[str, Any] = json.loads(
        (files("zskd.evaluation") / "agreement.json").read_text(encoding="utf-8")
    )
    for name, value in values.items():
        values[name] = tuple(value) if isinstance(value, list) else value
    return Law(**values)


def estimate_agreement(teacher: Classifier, student: Classifier, probes: Probes | None = None) -> Estimate:
    """Estimate how often a student gives its teacher's class on real images, without any.

    Meant for students that learned from images made for this teacher; one that learned from real images is
    better than this says.

    Args:
        teacher: asked in evaluation mode; left as it is.
        student: of the teacher's input size and number of classes; likewise.
        probes: images of this teacher; made here when absent, which takes some seconds.

    Returns:
        Estimate and interval in percent, and the classes on which the student is probably weakest.

    Raises:
        ZskdError: the two are no pair, the probes are another teacher's, or its answers are not finite.
    """
    found = measure(teacher, student, probes or make_probes(teacher))
    return conclude(found, teacher.class_names, teacher.spec.shape[0], fitted_law())


def conclude(signals: Signals, class_names: tuple[str, ...], channels: int, fitted: Law) -> Estimate:
    """Return what signals say: a pure function of them and the law."""
    reason = _out_of_reach(signals, len(class_names), channels, fitted)
    least = max(signals.unexplained, fitted.unexplained[0])
    low = _agreement(fitted.factor * least * fitted.spread)
    high = _agreement(fitted.factor * signals.unexplained / fitted.spread)
    percent = _agreement(fitted.factor * signals.unexplained) if reason is None else None
    if reason is not None:
        low = min(low, 100 - signals.noise)
    return Estimate(percent, low, high, weakest_classes(signals.by_class, class_names), reason, signals)


def _agreement(disagreement: float) -> float:
    return 100 * max(0.0, 1 - disagreement)


def weakest_classes(by_class: Iterable[float | None], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the classes whose margins on noise are missed most, the worst first."""
    told = [(missed, name) for missed, name in zip(by_class, names, strict=True) if missed is not None]
    return tuple(name for _, name in sorted(told, key=lambda one: -one[0])[:WEAKEST])


def _out_of_reach(signals: Signals, classes: int, channels: int, fitted: Law) -> str | None:
    where = " and ".join(fitted.data)
    if classes not in fitted.classes or channels not in fitted.channels:
        return (
            f"it was fitted on {where}, {_either(fitted.classes)} classes and {_either(fitted.channels)} "
            f"channels, and this teacher has {classes} and {channels}"
        )
    if signals.fragility > fitted.fragility:
        return (
            f"the teacher's class impressions lose {100 * signals.fragility:.0f} % of their margin when they "
            f"are moved a little; after {where}, on which it was fitted, a number is trusted up to "
            f"{100 * fitted.fragility:.0f} %: these classes may be harder to tell apart"
        )
    if signals.unexplained > fitted.unexplained[1]:
        return (
            f"the student misses {100 * signals.unexplained:.1f} % of the teacher's margins; after {where}, "
            f"on which it was fitted, a number is trusted up to {100 * fitted.unexplained[1]:.1f} %: it is "
            "further from its teacher"
        )
    return None


def _either(values: tuple[int, ...]) -> str:
    return " or ".join(map(str, values))
