"""ZSKD's soft targets with the teacher's batch-norm statistics: a method of this package.

Targets: Nayak et al. 2019, arXiv:1905.08114. Statistics: Yin et al. 2020, arXiv:1912.08795.
docs/methods/zskd_bn.md has the equations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from zskd.config.targets import TargetsConfig
from zskd.core.types import TargetsArray
from zskd.models.classifier import Classifier
from zskd.synthesis.methods.with_statistics import MethodWithStatistics
from zskd.synthesis.methods.zskd import ZSKD
from zskd.synthesis.plan import PlanEntry


@final
@dataclass(frozen=True, kw_only=True)
class ZSKDWithStatistics(MethodWithStatistics):
    """Targets y ~ Dirichlet(β·a_k), as those of ZSKD, with statistics."""

    statistics: float = 0.1
    """Weight of the batch-norm statistics, at least 0."""
    variation: float = 10.0
    """Weight of the total variation, at least 0."""

    def targets(
        self, teacher: Classifier, entries: Sequence[PlanEntry], config: TargetsConfig, *, seed: int
    ) -> TargetsArray:
        """Draw the targets (N, K), float32.

        Raises:
            ZskdError: the last layer has no class similarity.
        """
        return ZSKD().targets(teacher, entries, config, seed=seed)

    def check_teacher(self, teacher: Classifier) -> None:
        """Refuse a teacher without batch-norm or without class similarity.

        Raises:
            ZskdError: it lacks one of them.
        """
        super().check_teacher(teacher)
        ZSKD().check_teacher(teacher)
