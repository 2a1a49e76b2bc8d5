"""Settings of the soft targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cyclopts import Parameter

from zskd.config.checks import Config
from zskd.config.groups import TARGETS
from zskd.core.errors import ZskdError


@Parameter(group=TARGETS)
@dataclass(frozen=True, kw_only=True)
class TargetsConfig(Config):
    """Soft targets from Dirichlet distributions (ZSKD, section 3.2), and the anchor classes."""

    section: ClassVar[str] = "targets"

    betas: tuple[float, ...] = (1.0, 0.1)
    """Scales β of the concentration, each for an equal part of the set; a small β gives peaked targets."""
    normalise: Literal["row", "matrix"] = "row"
    """Min-max scaling of the class similarity: each row, or first the whole matrix and then each row."""
    rescale_after_beta: bool = False
    """Min-max scaling of each row again after β, as in the authors' release: β then has no effect."""
    concentration_floor: float = 0.05
    """Added to every concentration before β. With two classes, min-max gives (1, 0), and only this floor
    gives mixed targets."""
    redraws: int = 100
    """Largest number of redraws of a target whose largest entry is not its anchor class; after them, this
    entry and that of the class are exchanged. 0: the first draw is kept as it is."""
    priors: tuple[float, ...] | None = None
    """Share of each class among the anchor classes; the sum is 1. Absent: equal shares."""
    order: Literal["interleaved", "rows"] = "interleaved"
    """Classes and β in turn, so that the first n images are always balanced, or one block per class and β."""

    def __post_init__(self) -> None:
        """Check scales, floor, redraws and priors."""
        super().__post_init__()
        if not self.betas:
            raise ZskdError("--targets.betas needs at least one value")
        self.check_range("betas", low=0, above=True)
        self.check_range("concentration_floor", "redraws", "priors", low=0)
        if self.priors is not None:
            if abs(sum(self.priors) - 1) > 1e-6:
                raise ZskdError(f"--targets.priors sum to {sum(self.priors):g}: they must sum to 1")
            if self.is_whole and self.order == "rows":
                raise ZskdError("--targets.priors needs --targets.order interleaved: rows are equal blocks")
