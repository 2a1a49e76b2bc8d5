"""How often a student predicts its teacher's class on real images, estimated without any.

The law: the disagreement on real images is proportional to the share of the teacher's margins on class
impressions that the student misses. It holds for teachers whose class impressions keep their margin when they
are moved, as on the data sets of the fit. For other teachers there is only a wide interval. Its upper end is
the law's; its lower end is that of the law or the agreement on noise, whichever is lower. docs/estimate.md
shows how reliable both are. For teachers with batch-norm there is another bracket, by impressions with its
statistics. `studies/signals.py` fits the numbers in agreement.json and multiples.json to results/signal.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import field_serializer

from zskd.core.artefact import Artefact
from zskd.evaluation.probes import Probes, Signals, make_probes, measure, sampling_error
from zskd.evaluation.sanity import UNREACHED, is_reached
from zskd.models.checkpoint import Origin
from zskd.models.classifier import Classifier
from zskd.transfer_set.manifest import PICTURES, REAL

WEAKEST = 3
"""Number of weakest classes that are listed."""
_TWO_SIDED_95 = 1.96
"""Standard errors to each side of a 95 % interval."""
_USEFUL = 60.0
"""Middle of the interval, in percent, below which a student is called useless."""
_LOST = 65.0
"""The same with batch-norm: disagreement on impressions with statistics, in percent, above which it is."""
USELESS = (
    "Warning: this student is likely useless on real images: give it more steps and images, or choose a "
    "larger student (in zskd run: --distill.steps, --count, --student)"
)
_WITHOUT = "agreement on real images is not estimated:"
NOT_ESTIMATED = f"{_WITHOUT} the student was trained on real images, or on pictures that were given"
"""For such a student the estimate would be too low."""
NO_GRADIENT = f"{_WITHOUT} {UNREACHED}"
UNSEEN = "The teacher's own errors cannot be seen: where it is wrong, agreement with it is an error too."


@dataclass(frozen=True)
class Law:
    """The fitted law, and the range in which it holds."""

    factor: float
    """Percentage points of disagreement per percent of the margins that is missed."""
    spread: float
    """At least 1. The interval reaches from the estimated disagreement divided by it to that times it."""
    unexplained: tuple[float, float]
    """Smallest missed share among the students of the fit, and the largest at which the law holds; 0 to 1."""
    fragility: float
    """Largest loss of the teacher's margins at which the law holds, 0 to 1."""
    classes: tuple[int, ...]
    """Numbers of classes of the teachers of the fit."""
    channels: tuple[int, ...]
    """Numbers of channels of their images."""
    data: tuple[str, ...]
    """Data sets of the fit."""


@dataclass(frozen=True)
class Multiples:
    """Disagreement on real images for teachers with batch-norm, in multiples of that on impressions with
    statistics."""

    least: float
    most: float
    data: tuple[str, ...]
    """Data sets on which it was measured."""


@dataclass(frozen=True)
class Estimate:
    """Agreement with the teacher on real images, in percent (0 to 100)."""

    percent: float | None
    """The estimate; None where the law does not hold."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    weakest: tuple[str, ...]
    """Up to three classes with probably the lowest agreement, the lowest first."""
    reason: str | None
    """Why there is no estimate, only a wide interval; None where there is one."""
    signals: Signals
    """The measurements that it was computed from."""
    fewer: str | None = None
    """How many images it was measured on, where they are fewer than those of the fit."""

    @property
    def useless(self) -> bool:
        """Whether the student is likely useless: told by the interval, or for teachers with batch-norm, whose
        interval is wide, by the impressions alone."""
        if self.signals.with_statistics is not None:
            return 100 - self.signals.with_statistics[1] > _LOST
        return (self.low + self.high) / 2 < _USEFUL

    def lines(self) -> list[str]:
        """Return it as sentences, one per line."""
        interval = f"[{self.low:.1f}, {self.high:.1f}]"
        head = "agreement with the teacher on real images, estimated without any:"
        if self.percent is None:
            lines = [f"{head} no number, somewhere in {interval} %", f"Why no number: {self.reason}."]
        else:
            lines = [f"{head} {self.percent:.1f} % {interval}"]
        if self.useless:
            lines.append(USELESS)
        if self.weakest:
            lines.append(f"weakest classes, measured on noise: {', '.join(self.weakest)}")
        if self.fewer:
            lines.append(self.fewer)
        return [*lines, UNSEEN]

    def record(self) -> EstimateRecord:
        """Return numbers and sentences for a JSON file."""
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
    """The lines of `Estimate.lines`."""

    @field_serializer("signals")
    def _signals(self, signals: Signals) -> dict[str, Any]:
        """Leave out what older versions had not, where it was not measured."""
        measured = asdict(signals)
        if signals.with_statistics is None:
            del measured["with_statistics"]
        return measured


def not_estimated(teacher: Classifier, origin: Origin) -> str | None:
    """Return why no agreement is estimated for a network; None where it can be.

    It is estimated for networks that learned from images alone that were made for their teacher.

    Args:
        teacher: run in evaluation mode; not changed.
        origin: of the network.
    """
    if origin.how == "trained" or origin.method in (REAL, PICTURES) or origin.pictures_sha256:
        return NOT_ESTIMATED
    if origin.how != "distilled":
        return f"{_WITHOUT} nothing tells that the network learned from images that were made for its teacher"
    return None if is_reached(teacher) else NO_GRADIENT


@cache
def fitted_law() -> Law:
    """Return the fitted law of agreement.json."""
    return Law(**_read("agreement.json"))


@cache
def fitted_multiples() -> Multiples:
    """Return what multiples.json has for teachers with batch-norm."""
    return Multiples(**_read("multiples.json"))


def _read(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((files("zskd.evaluation") / name).read_text(encoding="utf-8"))
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def estimate_agreement(teacher: Classifier, student: Classifier, probes: Probes | None = None) -> Estimate:
    """Estimate how often a student predicts its teacher's class on real images, without any.

    It is for students that were trained on images made for this teacher. For a student trained on real
    images, also beside others, it is too low.

    Args:
        teacher: run in evaluation mode; not changed.
        student: run in evaluation mode; not changed. It has the teacher's input shape and number of classes.
        probes: made for this teacher; None: made here, in some seconds.

    Returns:
        Estimate and interval in percent, and the classes with probably the lowest agreement.

    Raises:
        ZskdError: the networks have different shapes, the probes were made for another teacher, or the
            teacher's logits are not finite.
    """
    probes, law = probes or make_probes(teacher), fitted_law()
    found = measure(teacher, student, probes)
    names, channels = teacher.class_names, teacher.spec.shape[0]
    if probes.share >= 1 or probes.statistics:  # of statistics, the interval includes the number of images
        return conclude(found, names, channels, law)
    # the spread of the law includes the error of the usual number of images
    error = sampling_error(teacher, student, probes, law.unexplained[0]) * math.sqrt(1 - probes.share)
    images = len(probes.moved)
    usual = round(images / probes.share)
    fewer = f"measured on {images:,} images instead of {usual:,}, so that the interval is wider"
    wider = replace(law, spread=law.spread * math.exp(_TWO_SIDED_95 * error))
    return replace(conclude(found, names, channels, wider), fewer=fewer)


def conclude(
    signals: Signals,
    class_names: tuple[str, ...],
    channels: int,
    fitted: Law,
    multiples: Multiples | None = None,
) -> Estimate:
    """Return the estimate: a pure function of signals and law.

    Args:
        signals: measured on the probes.
        class_names: of the K classes.
        channels: of the teacher's images.
        fitted: the law.
        multiples: for teachers with batch-norm; None: the fitted ones.

    Returns:
        Estimate and interval in percent; no estimate where the law does not hold.
    """
    if signals.with_statistics is not None:
        return _by_statistics(signals, signals.with_statistics, class_names, multiples or fitted_multiples())
    reason = _out_of_reach(signals, len(class_names), channels, fitted)
    least = max(signals.unexplained, fitted.unexplained[0])
    low = _agreement(fitted.factor * least * fitted.spread)
    high = _agreement(fitted.factor * signals.unexplained / fitted.spread)
    percent = _agreement(fitted.factor * signals.unexplained) if reason is None else None
    if reason is not None:
        low = min(low, 100 - signals.noise)
    return Estimate(percent, low, high, weakest_classes(signals.by_class, class_names), reason, signals)


def _by_statistics(
    signals: Signals, agreement: tuple[float, float, float], class_names: tuple[str, ...], of_data: Multiples
) -> Estimate:
    """Return the bracket for a teacher with batch-norm."""
    worst, found, best = (100 - one for one in agreement)
    reason = (
        f"the student differs from its teacher on {found:.0f} % of impressions with the statistics of its "
        f"batch-norm, and on real images probably {of_data.least:g} to {of_data.most:g} times as often, "
        f"depending on the data ({', '.join(of_data.data)})"
    )
    weakest = weakest_classes(signals.by_class, class_names)
    low, high = max(0.0, 100 - of_data.most * worst), 100 - of_data.least * best
    return Estimate(None, low, high, weakest, reason, signals)


def _agreement(disagreement: float) -> float:
    return 100 * max(0.0, 1 - disagreement)


def weakest_classes(by_class: Iterable[float | None], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the up to three classes whose margins on noise are missed most, the worst first.

    Args:
        by_class: missed share of each of the K classes, 0 or more; None where it was not measured.
        names: of the K classes.
    """
    measured = [(missed, name) for missed, name in zip(by_class, names, strict=True) if missed is not None]
    return tuple(name for _, name in sorted(measured, key=lambda one: -one[0])[:WEAKEST])


def _out_of_reach(signals: Signals, classes: int, channels: int, fitted: Law) -> str | None:
    where = " and ".join(fitted.data)
    if classes not in fitted.classes or channels not in fitted.channels:
        return (
            f"the estimate was fitted on {where} ({_either(fitted.classes)} classes, "
            f"{_either(fitted.channels)} channels), and this teacher has {classes} classes and {channels} "
            "channels"
        )
    if signals.fragility > fitted.fragility:
        return (
            f"the teacher's class impressions lose {100 * signals.fragility:.0f} % of their margin when they "
            f"are moved a little; the estimate was fitted on {where} and holds up to "
            f"{100 * fitted.fragility:.0f} %: these classes may be harder to separate"
        )
    if signals.unexplained > fitted.unexplained[1]:
        return (
            f"the student misses {100 * signals.unexplained:.1f} % of the teacher's margins; the estimate "
            f"was fitted on {where} and holds up to {100 * fitted.unexplained[1]:.1f} %: this student "
            "differs more from its teacher"
        )
    return None


def _either(values: tuple[int, ...]) -> str:
    return " or ".join(map(str, values))
