"""Statistics of a few runs: means, prediction intervals, paired tests, correction for many tests.

Values are percentages, one per seed; differences and deviations are in percentage points. Every
deviation is that of a sample (n − 1). Intervals are 95 % intervals, unless stated otherwise.

`scipy.stats` takes half a second to import, so only the functions that need it import it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from zskd.core.errors import ZskdError
from zskd.core.types import CorrectMask


@dataclass(frozen=True)
class Share:
    """A percentage of n images with its 95 % interval, Wilson's where nothing else is said."""

    percent: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.percent:.2f} % [{self.low:.2f}, {self.high:.2f}] of {self.n:,}"

    @property
    def cell(self) -> str:
        """What a table shows of it."""
        return f"{self.percent:.2f} [{self.low:.2f}, {self.high:.2f}]"


def share_of(count: int, n: int, *, exact: bool = False) -> Share:
    """Return count/n as a percentage with its 95 % interval (Wilson 1927).

    Args:
        count: 0 to n.
        n: number of images.
        exact: with the interval of Clopper and Pearson (1934), which covers at least 95 % for any n.

    Raises:
        ZskdError: n is 0.
    """
    if n == 0:
        raise ZskdError("there are no images to measure on: give at least one")
    from scipy.stats import binomtest

    interval = binomtest(count, n).proportion_ci(method="exact" if exact else "wilson")
    return Share(100 * count / n, 100 * interval.low, 100 * interval.high, n)


_Values = Float64[np.ndarray, "n"]
ENOUGH_TO_PREDICT = 3
"""Of fewer runs the prediction interval is too wide to be reported."""
_ROUNDING = 1e-12
"""A deviation below this share of the largest value is rounding error."""


@dataclass(frozen=True)
class Summary:
    """Mean and sample deviation of n runs, with the t interval of the mean; None of one run."""

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

    One pair has no deviation, interval or p. Where all differences are equal the deviation is 0, and there is
    no interval or p either: t would divide by zero, and an interval of width 0 would claim too much.
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
    """How many of the same n test images only one of two networks classifies correctly, and the exact
    two-sided p."""

    only_first: int
    only_second: int
    n: int
    p: float


def summarise(values: Collection[float]) -> Summary:
    """Return mean, deviation and interval of n runs of one arm: mean ± t_{n−1}·s/√n (Student 1908).

    Equal values give an interval of width 0.

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
    """Return the interval for one further run of the same arm: mean ± t_{n−1}·s·√(1 + 1/n).

    It holds for normally distributed runs (Hahn and Meeker 1991); few runs give a wide interval.

    Args:
        values: of at least one run.
        confidence: probability that the run lies in the interval, above 0 and below 1.

    Returns:
        Lower and upper end; None for one run, and for equal values: they tell no spread.

    Raises:
        ZskdError: there are no values, one is not finite, or the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ZskdError(f"the confidence is {confidence}: give one between 0 and 1")
    summary = summarise(values)
    if summary.deviation is None or summary.deviation <= _ROUNDING * abs(summary.mean):
        return None
    half = _t_quantile(confidence, summary.n) * summary.deviation * math.sqrt(1 + 1 / summary.n)
    return summary.mean - half, summary.mean + half


def compare_paired(
    first: Mapping[int, float], second: Mapping[int, float], *, names: tuple[str, str]
) -> Difference:
    """Compare two arms over the seeds that both have, by the paired t test.

    Args:
        first: seed -> value of one arm.
        second: seed -> value of the other; it is subtracted.
        names: of the two arms.

    Raises:
        ZskdError: the arms have no seed in common, or a value is not finite.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        raise ZskdError(
            f"{names[0]} and {names[1]} have no seed in common: run one arm with the seeds of the other"
        )
    a, b = _finite([first[seed] for seed in seeds]), _finite([second[seed] for seed in seeds])
    differences = a - b
    n, mean = len(seeds), float(differences.mean())
    if n == 1:
        return Difference(*names, n, mean, None, None, None, None)
    deviation = float(differences.std(ddof=1))
    if deviation <= _ROUNDING * max(np.abs(a).max(), np.abs(b).max()):
        return Difference(*names, n, mean, 0.0, None, None, None)
    from scipy.stats import ttest_rel

    test = ttest_rel(a, b)
    low, high = test.confidence_interval(0.95)
    return Difference(*names, n, mean, deviation, float(low), float(high), float(test.pvalue))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return all p-values adjusted for many tests by Holm's step-down rule (Holm 1979), in the given order.

    The k-th smallest of m is multiplied by m − k + 1; none is smaller than the one before it or
    larger than 1. None, a missing test, stays None and does not count in m.

    Raises:
        ZskdError: a p outside [0, 1].
    """
    # scipy adjusts for the false discovery rate only, and statsmodels is a large dependency for four lines
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    if any(not 0 <= p <= 1 for p, _ in known):
        raise ZskdError("a p-value lies outside 0 to 1: give one between 0 and 1")
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        adjusted[i] = largest = max(largest, min(1.0, (len(known) - rank) * p))
    return adjusted


def mcnemar(first: CorrectMask, second: CorrectMask) -> McNemarTest:
    """Test exactly whether two networks have the same accuracy (McNemar 1947).

    It counts the images that exactly one network classifies correctly: under the null hypothesis each is the
    first's with probability ½. Without such an image p is 1. The test compares these two networks, not their
    arms.

    Args:
        first: correct mask of the first network, for n test images (n,).
        second: correct mask of the second network, for the same images in the same order (n,).

    Raises:
        ZskdError: the masks have different lengths.
    """
    if len(first) != len(second):
        raise ZskdError(
            f"one network was tested on {len(first):,} images and the other on "
            f"{len(second):,}: compare them on the same ones"
        )
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n = only_first + only_second
    from scipy.stats import binomtest

    p = float(binomtest(only_first, n, 0.5).pvalue) if n else 1.0
    return McNemarTest(only_first, only_second, len(first), p)


def sampling_error(percent: float, n: int) -> float:
    """Return the half width of the 95 % interval due to a sample of n test images alone, in points.

    Normal approximation 1.96·√(p(1 − p)/n): a rule of thumb, 0 at 0 and 100 %. The interval of a measured
    share is that of `share_of`.

    Args:
        percent: accuracy, 0 to 100.
        n: number of test images, at least 1.

    Raises:
        ZskdError: percent or n is out of range.
    """
    if not 0 <= percent <= 100 or n < 1:
        raise ZskdError(f"{percent} % of {n} is no share of images: give 0 to 100 %, and n from 1 on")
    from scipy.stats import norm

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
    """Return the two-sided quantile of Student's t with n − 1 degrees of freedom."""
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, n - 1))
