"""Zero-shot knowledge distillation: soft targets shaped by class similarity.

Nayak, Mopuri, Shaj, Babu, Chakraborty: "Zero-Shot Knowledge Distillation in Deep Networks", ICML 2019,
arXiv:1905.08114. Every difference between the paper, its release and the reproduction is a setting;
docs/methods/zskd.md lists them.
"""

from __future__ import annotations

from zskd.config.targets import TargetsConfig
from zskd.models.classifier import Classifier
from zskd.synthesis.dirichlet import draw_targets
from zskd.synthesis.methods.base import TargetBatch
from zskd.synthesis.plan import PlanEntry
from zskd.synthesis.similarity import class_similarity, concentration


def zskd(
    teacher: Classifier, places: list[PlanEntry], indices: list[int], seed: int, config: TargetsConfig
) -> TargetBatch:
    """Draw y ~ Dirichlet(β·a_k) for the anchor class k of each index  (equations 2 to 4)."""
    scaled = concentration(
        class_similarity(teacher.head_weight), normalise=config.normalise, floor=config.concentration_floor
    )
    targets = draw_targets(scaled, places, indices, seed=seed, config=config)
    return TargetBatch(targets, [place.optimised for place in places])
