"""Class impressions: the ablation of ZSKD without class similarity; targets are one-hot.

Mopuri, Uppala, Babu: "Ask, Acquire, and Attack: Data-free UAP Generation using Class Impressions",
ECCV 2018, arXiv:1808.01153.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.types import TargetsArray
from zskd.models.classifier import Classifier
from zskd.synthesis.dirichlet import one_hot
from zskd.synthesis.inversion.objective import Objective, match_targets
from zskd.synthesis.methods.base import Method
from zskd.synthesis.plan import PlanEntry


@final
@dataclass(frozen=True, kw_only=True)
class ClassImpressions(Method):
    """One-hot targets of the anchor class."""

    def targets(
        self, teacher: Classifier, entries: Sequence[PlanEntry], config: TargetsConfig, *, seed: int
    ) -> TargetsArray:
        """Return one-hot rows (N, K), float32."""
        return one_hot([entry.anchor for entry in entries], teacher.classes)

    def objective(self, config: SynthesisConfig) -> Objective:
        """Return the cross-entropy with the anchor class at τ, and the penalty of `config`."""
        return match_targets(config)
