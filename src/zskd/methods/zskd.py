"""Zero-shot knowledge distillation: soft targets shaped by class similarity.

Nayak, Mopuri, Shaj, Babu, Chakraborty: "Zero-Shot Knowledge Distillation in Deep Networks", ICML 2019,
arXiv:1905.08114. Every difference between the paper, its release and the reproduction is a setting;
docs/methods/zskd.md lists them.
"""

from __future__ import annotations

from zskd.classifier import Classifier
from zskd.config import Targets
from zskd.methods.wanted import Wanted
from zskd.similarity import class_similarity, concentration
from zskd.targets import Place, draw_targets


def zskd(teacher: Classifier, places: list[Place], indices: list[int], seed: int, config: Targets) -> Wanted:
    """Draw y ~ Dirichlet(β·a_k) for the anchor class k of each index  (equations 2 to 4)."""
    scaled = concentration(
        class_similarity(teacher.head_weight), normalise=config.normalise, floor=config.concentration_floor
    )
    targets = draw_targets(scaled, places, indices, seed=seed, config=config)
    return Wanted(targets, [place.optimised for place in places])
