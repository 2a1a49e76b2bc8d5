"""The area under the ROC curve of two classes, with an interval for few images."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float64
from pydantic import Field

from zskd.core.artefact import Artefact, AtLeastOne, Fraction
from zskd.core.errors import ZskdError

_Scores = Float64[np.ndarray, "n"]
_Mask = Bool[np.ndarray, "n"]
_ALMOST_ONE = 1 - 1e-9


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
