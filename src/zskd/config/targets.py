"""Settings of the soft targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from zskd.config.checks import Config
from zskd.core.errors import ZskdError


@dataclass(frozen=True, kw_only=True)
class TargetsConfig(Config):
    """Soft targets from Dirichlet distributions (ZSKD, section 3.2), and which class each image is for."""

    section: ClassVar[str] = "targets"

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
    priors: tuple[float, ...] | None = None
    """Share of each class among the anchors, summing to 1; absent: equal."""
    order: Literal["interleaved", "rows"] = "interleaved"
    """Classes and β in turn, so that every prefix is balanced, or one block per class and β."""

    def __post_init__(self) -> None:
        """Refuse scales, floors and priors that no Dirichlet distribution has."""
        super().__post_init__()
        if not self.betas:
            raise ZskdError("--targets.betas needs at least one value")
        self.check_range("betas", low=0, above=True)
        self.check_range("concentration_floor", "redraws", "priors", low=0)
        if self.priors is not None:
            if abs(sum(self.priors) - 1) > 1e-6:
                raise ZskdError(f"--targets.priors sum to {sum(self.priors):g}: they must sum to 1")
            if self.order == "rows":
                raise ZskdError("--targets.priors needs --targets.order interleaved: rows are equal blocks")
