"""Zero-shot knowledge distillation: soft targets shaped by class similarity.

Nayak, Mopuri, Shaj, Babu, Chakraborty: "Zero-Shot Knowledge Distillation in Deep Networks", ICML 2019,
arXiv:1905.08114. Every difference between the paper, its release and the reproduction is a setting;
docs/methods/zskd.md lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.types import TargetsArray
from zskd.models.classifier import Classifier
from zskd.synthesis.dirichlet import draw_targets
from zskd.synthesis.inversion.objective import Objective, match_targets
from zskd.synthesis.methods.base import Method
from zskd.synthesis.plan import PlanEntry
from zskd.synthesis.similarity import class_similarity, concentration


@final
@dataclass(frozen=True, kw_only=True)
class ZSKD(Method):
    """Targets y ~ Dirichlet(β·a_k) for the anchor class k of each image  (equations 2 to 4)."""

    def targets(
        self, teacher: Classifier, entries: Sequence[PlanEntry], config: TargetsConfig, *, seed: int
    ) -> TargetsArray:
        """Draw the targets (N, K), float32.

        Raises:
            ZskdError: the last layer has no class similarity.
        """
        scaled = concentration(
            class_similarity(teacher.head_weight),
            normalise=config.normalise,
            floor=config.concentration_floor,
        )
        return draw_targets(scaled, entries, config, seed=seed)

    def check_teacher(self, teacher: Classifier) -> None:
        """Refuse a teacher without class similarity.

        Raises:
            ZskdError: no last linear layer is found, or it has no class similarity.
        """
        concentration(class_similarity(teacher.head_weight))

    def objective(self, config: SynthesisConfig) -> Objective:
        """Return CE(y, softmax(T(x)/τ))  (equation 5), and the penalty of `config`."""
        return match_targets(config)
