"""What the methods that read the teacher's batch-norm statistics have in common: their objective."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.models.batch_statistics import check_batch_norms
from zskd.models.classifier import Classifier
from zskd.synthesis.inversion.objective import Objective, match_targets
from zskd.synthesis.inversion.terms import BatchNormStatistics, Scale, TotalVariation
from zskd.synthesis.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class MethodWithStatistics(Method, ABC):
    """Matches the targets and the teacher's batch-norm statistics, with images of little total variation.

    A subclass says what the targets are.
    """

    statistics: float = 0.3
    """Weight of the batch-norm statistics, at least 0."""
    variation: float = 40.0
    """Weight of the total variation, at least 0."""
    scale: Scale = "absolute"
    """Differences of statistics as in the paper (absolute), in units of each layer (relative), or in these
    units, averaged over the layers instead of added (mean)."""
    first_layer: float = 1.0
    """Weight of the first batch-norm layer among the others, at least 0."""
    momentum: float = 0.0
    """Share of the earlier steps in the statistics of a batch, 0 to less than 1."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.check_range("statistics", "variation", "first_layer", "momentum", low=0)
        if self.momentum >= 1:
            raise ZskdError(f"{self.option('momentum')} is {self.momentum}: it must be below 1")

    def check_teacher(self, teacher: Classifier) -> None:
        """Refuse a teacher without batch-norm.

        Raises:
            ZskdError: it has no layer with running statistics.
        """
        check_batch_norms(teacher.module, f"the method {type(self).__name__}")

    def objective(self, config: SynthesisConfig) -> Objective:
        """Return the cross-entropy with the target at τ, the statistics and the total variation."""
        known = BatchNormStatistics(self.scale, self.first_layer, self.momentum)
        return match_targets(config) + self.statistics * known + self.variation * TotalVariation()
