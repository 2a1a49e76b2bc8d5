"""Class impressions: the ablation of ZSKD whose targets know nothing of class similarity.

Mopuri, Uppala, Babu: "Ask, Acquire, and Attack: Data-free UAP Generation using Class Impressions",
ECCV 2018, arXiv:1808.01153.
"""

from __future__ import annotations

from zskd.config.targets import TargetsConfig
from zskd.models.classifier import Classifier
from zskd.synthesis.dirichlet import one_hot
from zskd.synthesis.methods.base import TargetBatch
from zskd.synthesis.plan import PlanEntry


def class_impressions(
    teacher: Classifier, places: list[PlanEntry], indices: list[int], seed: int, config: TargetsConfig
) -> TargetBatch:
    """Ask for the anchor class alone."""
    targets = one_hot([place.anchor for place in places], teacher.classes)
    return TargetBatch(targets, [place.optimised for place in places])
