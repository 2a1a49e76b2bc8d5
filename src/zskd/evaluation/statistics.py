"""What may be said of a few runs: means and where the next run will lie, paired tests, many tests at once.

Values are percentages, one per seed; differences and deviations are in percentage points. Every
deviation is that of a sample (n − 1), every interval has 95 % unless told otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.stats import binomtest, norm, t, ttest_rel

from zskd.core.errors import ZskdError
from zskd.core.types import CorrectMask


@dataclass(frozen=True)
class Share:
    """A percentage of n images with its 95 % Wilson interval."""

    percent: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.percent:.2f} % [{self.low:.2f}, {self.high:.2f}] of {self.n:,}"


def share_of(hits: int, n: int) -> Share:
    """Return hits/n as a percentage with its interval.

    Raises:
        ZskdError: n is 0.
    """
    if n == 0:
        raise ZskdError("there are no images to measure on")
    from scipy.stats import binomtest  # takes a while, and no worker needs it

    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return Share(100 * hits / n, 100 * interval.low, 100 * interval.high, n)


_Values = Float64[np.ndarray, "n"]
ENOUGH_TO_PREDICT = 3
"""Of fewer runs the interval for the next one is so wide that it is not told."""
_ROUNDING = 1e-12
"""Differences whose deviation is less than this share of the largest value differ by rounding alone."""


@dataclass(frozen=True)
class Summary:
    """Mean and sample deviation of n runs, with the t interval of the mean; one run has only itself."""

    n: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """Mean ± standard deviation over runs, as everywhere in the project."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{self.mean:.2f}{spread} (n = {self.n})"


@dataclass(frozen=True)
class Difference:
    """First minus second over the n seeds that both arms have, with its interval and two-sided p.

    With one pair there is no deviation, interval or p. With no spread (all differences the same) the
    deviation is 0 and there is no interval or p either: t would divide by zero, and a width of
    nothing would claim a certainty that a few runs cannot give.
    """

    first: str
    second: str
    n: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True)
class McNemarTest:
    """Which of the same n test images only one of two networks gets right, and the exact two-sided p."""

    only_first: int
    only_second: int
    n: int
    p: float


def summarise(values: Collection[float]) -> Summary:
    """Return what n runs of one arm say of its mean: mean ± t_{n−1}·s/√n (Student 1908).

    Equal values give an interval of no width.

    Raises:
        ZskdError: there are no values, or one is not a finite number.
    """
    found = _finite(values)
    n, mean = len(found), float(found.mean())
    if n == 1:
        return Summary(n, mean, None, None, None)
    deviation = float(found.std(ddof=1))
    half = _t_quantile(0.95, n) * deviation / math.sqrt(n)
    return Summary(n, mean, deviation, mean - half, mean + half)


def prediction_interval(values: Collection[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return where one further run of the same arm is expected: mean ± t_{n−1}·s·√(1 + 1/n).

    It holds for normally distributed runs (Hahn and Meeker 1991); with few of them it is wide, and
    rightly so. One run tells nothing of the next: None.

    Raises:
        ZskdError: there are no values, one is not finite, or the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ZskdError(f"a confidence lies between 0 and 1, and this is {confidence}")
    summary = summarise(values)
    if summary.deviation is None:
        return None
    half = _t_quantile(confidence, summary.n) * summary.deviation * math.sqrt(1 + 1 / summary.n)
    return summary.mean - half, summary.mean + half


def compare_paired(
    first: Mapping[int, float], second: Mapping[int, float], *, names: tuple[str, str]
) -> Difference:
    """Return how two arms differ over the seeds that both have, by the paired t test.

    Args:
        first: seed -> value of one arm.
        second: seed -> value of the other; it is subtracted.
        names: what the two arms are called.

    Raises:
        ZskdError: the arms have no seed in common, or a value is not finite.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        raise ZskdError(f"{names[0]} and {names[1]} have no seed in common: run one of them with the other's")
    a, b = _finite([first[seed] for seed in seeds]), _finite([second[seed] for seed in seeds])
    differences = a - b
    n, mean = len(seeds), float(differences.mean())
    if n == 1:
        return Difference(*names, n, mean, None, None, None, None)
    deviation = float(differences.std(ddof=1))
    if deviation <= _ROUNDING * max(np.abs(a).max(), np.abs(b).max()):
        return Difference(*names, n, mean, 0.0, None, None, None)
    test = ttest_rel(a, b)
    low, high = test.confidence_interval(0.95)
    return Difference(*names, n, mean, deviation, float(low), float(high), float(test.pvalue))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return each p adjusted for the whole family by Holm's step-down rule (Holm 1979), in the given order.

    The k-th smallest of m is multiplied by m − k + 1; none is smaller than the one before it or
    larger than 1. None, a test that could not be made, stays None and does not count in m.

    Raises:
        ZskdError: a p outside [0, 1].
    """
    # scipy adjusts for the false discovery rate only, and statsmodels is a large dependency for four lines
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    if any(not 0 <= p <= 1 for p, _ in known):
        raise ZskdError("a p-value lies between 0 and 1")
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        adjusted[i] = largest = max(largest, min(1.0, (len(known) - rank) * p))
    return adjusted


def mcnemar(first_hits: CorrectMask, second_hits: CorrectMask) -> McNemarTest:
    """Return the exact test of whether two networks are right equally often (McNemar 1947).

    Only images that exactly one of them gets right tell: each is the first's with probability ½.
    The p speaks of these two networks, not of other seeds. Without such an image it is 1.

    Args:
        first_hits: whether each of n test images is recognised (n,).
        second_hits: the same of the other network, for the same images in the same order.

    Raises:
        ZskdError: the two are of different lengths.
    """
    if len(first_hits) != len(second_hits):
        raise ZskdError(
            f"one network was tested on {len(first_hits):,} images and the other on "
            f"{len(second_hits):,}: compare them on the same ones"
        )
    only_first, only_second = int((first_hits & ~second_hits).sum()), int((second_hits & ~first_hits).sum())
    told = only_first + only_second
    p = float(binomtest(only_first, told, 0.5).pvalue) if told else 1.0
    return McNemarTest(only_first, only_second, len(first_hits), p)


def sampling_error(percent: float, n: int) -> float:
    """Return the half width in points of the 95 % interval that a sample of n test images alone gives.

    Normal approximation 1.96·√(p(1 − p)/n): a rule of thumb, 0 at 0 and 100 %; the interval of one
    measured share is `evaluate.share`.

    Raises:
        ZskdError: a percentage outside [0, 100], or no images.
    """
    if not 0 <= percent <= 100 or n < 1:
        raise ZskdError(f"no share of images: {percent} % of {n}")
    p = percent / 100
    return 100 * float(norm.ppf(0.975)) * math.sqrt(p * (1 - p) / n)


def _finite(values: Collection[float]) -> _Values:
    found = np.array(list(values), dtype=np.float64)
    if not len(found):
        raise ZskdError("there are no runs to summarise")
    if not np.isfinite(found).all():
        raise ZskdError("the value of a run is not a finite number")
    return found


def _t_quantile(confidence: float, n: int) -> float:
    """Return what Student's t of n runs, n − 1 degrees of freedom, stays within on either side."""
    return float(t.ppf((1 + confidence) / 2, n - 1))
