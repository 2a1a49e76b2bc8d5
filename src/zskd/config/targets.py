"""Settings of the soft targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zskd.config.checks import check_range
from zskd.core.errors import ZskdError


@dataclass(frozen=True, kw_only=True)
class TargetsConfig:
    """Softmax targets drawn from Dirichlet distributions (ZSKD, section 3.2), or by way of features."""

    betas: tuple[float, ...] = (1.0, 0.1)
    """Scales of the concentration, each for an equal part of the set; small ones give peaked targets."""
    normalise: Literal["row", "matrix"] = "row"
    """Min-max each row of the class similarity, or first the whole matrix and then each row."""
    rescale_after_beta: bool = False
    """Min-max each row once more behind β, as the authors' release does: β then has no effect."""
    concentration_floor: float = 0.05
    """Added to every concentration before β. With two classes, where min-max leaves (1, 0), only this
    gives mixed targets."""
    redraws: int = 100
    """How often a target whose largest entry is not its class is drawn again."""
    spread: float = 1.0
    """Standard deviation of the features that the method soft_targeted draws, in multiples of the root mean
    square of the classes' means; 0: all targets of a class are the same. No other method looks at it."""
    priors: tuple[float, ...] | None = None
    """Share of each class among the anchors, summing to 1; absent: equal."""
    order: Literal["interleaved", "rows"] = "interleaved"
    """Classes and β in turn, so that every prefix is balanced, or one block per class and β."""

    def __post_init__(self) -> None:
        """Refuse scales, floors and priors that no Dirichlet distribution has."""
        if not self.betas:
            raise ZskdError("--targets.betas needs at least one value")
        for beta in self.betas:
            check_range("targets.betas", beta, 0, above=True)
        check_range("targets.concentration-floor", self.concentration_floor, 0)
        check_range("targets.redraws", self.redraws, 0)
        check_range("targets.spread", self.spread, 0)
        if self.priors is not None:
            for prior in self.priors:
                check_range("targets.priors", prior, 0)
            if abs(sum(self.priors) - 1) > 1e-6:
                raise ZskdError(f"--targets.priors sum to {sum(self.priors):g}: they must sum to 1")
            if self.order == "rows":
                raise ZskdError("--targets.priors needs --targets.order interleaved: rows are equal blocks")
