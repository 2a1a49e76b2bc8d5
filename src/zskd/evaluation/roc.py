"""The ROC curve of two classes: the area under it and a point on it, with intervals for few images."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float64
from pydantic import Field

from zskd.core.artefact import Artefact, AtLeastOne, Fraction
from zskd.core.errors import ZskdError
from zskd.evaluation.statistics import Share

_Scores = Float64[np.ndarray, "n"]
_Mask = Bool[np.ndarray, "n"]
_ALMOST_ONE = 1 - 1e-9
FALSE_POSITIVES = 0.01
"""Share of the other class that a threshold may call positive."""
FEWEST = round(1 / FALSE_POSITIVES)
"""Of fewer images of the other class, no threshold calls one in a hundred positive."""


class Area(Artefact):
    """The area under the ROC curve, 0 to 1, with its 95 % interval."""

    area: Fraction
    low: Fraction
    high: Fraction
    positive: AtLeastOne
    """Images of the positive class."""
    negative: Annotated[int, Field(ge=1)]
    """Images of the other class."""

    def __str__(self) -> str:
        return f"{self.area:.3f} [{self.low:.3f}, {self.high:.3f}]"


def area_under_curve(scores: _Scores, positive: _Mask) -> Area:
    """Return the share of pairs of a positive and a negative image whose scores are in the right order.

    The positive has the larger score; pairs of equal scores count half. It is the statistic of Mann and
    Whitney over the number of pairs. The interval is method 5 of Newcombe (Statistics in Medicine 25, 2006,
    part 2): the areas θ with |A − θ| ≤ z·√V(θ), where V is the variance of Hanley and McNeil (Radiology 143,
    1982) with the mean size of the two groups in place of each. It stays inside 0 and 1, and has a width
    where all pairs are in order.

    Args:
        scores: the larger, the surer is a network of the positive class (N,).
        positive: whether each image is of the positive class (N,).

    Raises:
        ZskdError: one of the classes has no image.
    """
    from scipy.stats import rankdata

    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        raise ZskdError("the area under the ROC curve needs images of both classes")
    above = float(rankdata(scores)[positive].sum()) - m * (m + 1) / 2
    area = above / (m * n)
    return Area(area=area, low=_lower(area, m, n), high=1 - _lower(1 - area, m, n), positive=m, negative=n)


def true_positives(scores: _Scores, positive: _Mask) -> Share | None:
    """Return the share of positive images above the threshold that 1 % of the others exceed.

    The threshold is the smallest score of another image that at most 1 % of the others are above. The
    interval allows for chance in both groups: the number of others above the true threshold is binomial, so
    that the threshold lies between two of their scores with 97.5 % confidence. At each of these, the share of
    positives has its exact interval of the same confidence (Clopper and Pearson 1934). Together they cover
    the truth at least 95 times in 100, whatever the distribution of the scores.

    Args:
        scores: the larger, the more positive (N,).
        positive: whether each image is of the positive class (N,).

    Returns:
        Percent of the positive images; None with fewer than 100 others.

    Raises:
        ZskdError: there is no positive image.
    """
    from scipy.stats import binom, binomtest

    found, others = scores[positive], np.sort(scores[~positive])[::-1]
    n, one_side = len(others), 0.05 / 4
    if not len(found):
        raise ZskdError("there are no positive images: give at least one")
    if n < FEWEST:
        return None

    def above(rank: int) -> int:
        """Return how many positives are above the score that `rank` others come before."""
        return int((found > others[rank]).sum())

    def ends(count: int) -> tuple[float, float]:
        interval = binomtest(count, len(found)).proportion_ci(1 - 2 * one_side, method="exact")
        return 100 * interval.low, 100 * interval.high

    fewest, most = (int(binom.ppf(p, n, FALSE_POSITIVES)) for p in (one_side, 1 - one_side))
    low = ends(above(fewest - 1))[0] if fewest else 0.0
    percent = 100 * above(int(n * FALSE_POSITIVES)) / len(found)
    return Share(percent, low, ends(above(most))[1], len(found))


def chance(scores: _Scores, positive: _Mask) -> float:
    """Return how probable such an area, or so many true positives, is if both groups are alike.

    It is the smaller of two p-values, doubled: that of the area, of either side (Mann and Whitney 1947), and
    that of the positives above the threshold of `true_positives`, where there is one. If all orders of the
    images are equally probable, their number is negative hypergeometric.

    Args:
        scores: the larger, the more positive (N,).
        positive: whether each image is of the positive class (N,); some are, and some are not.
    """
    from scipy.stats import mannwhitneyu, nhypergeom

    found, others = scores[positive], np.sort(scores[~positive])[::-1]
    p = float(mannwhitneyu(found, others, method="asymptotic").pvalue)
    if len(others) >= FEWEST:
        allowed = int(len(others) * FALSE_POSITIVES)
        above = int((found > others[allowed]).sum())
        p = min(p, float(nhypergeom.sf(above - 1, len(scores), len(found), allowed + 1)))
    return min(1.0, 2 * p)


def variance(area: float, m: int, n: int) -> float:
    """Return Newcombe's variance of an area that was measured on m and n images."""
    size = (m + n) / 2 - 1
    spread = 1 + size * ((1 - area) / (2 - area) + area / (1 + area))
    return area * (1 - area) * spread / (m * n)


def _lower(area: float, m: int, n: int) -> float:
    """Return the lower end; the upper end is that of the mirrored area, because V(θ) = V(1 − θ)."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    if area <= 0:
        return 0.0
    z = float(norm.ppf(0.975))
    return float(
        brentq(lambda one: (area - one) ** 2 - z**2 * variance(one, m, n), 0.0, min(area, _ALMOST_ONE))
    )
