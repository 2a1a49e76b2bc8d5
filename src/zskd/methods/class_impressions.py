"""Class impressions: the ablation of ZSKD whose targets know nothing of class similarity.

Mopuri, Uppala, Babu: "Ask, Acquire, and Attack: Data-free UAP Generation using Class Impressions",
ECCV 2018, arXiv:1808.01153.
"""

from __future__ import annotations

from zskd.classifier import Classifier
from zskd.config import Targets
from zskd.methods.wanted import Wanted
from zskd.targets import Place, one_hot


def class_impressions(
    teacher: Classifier, places: list[Place], indices: list[int], seed: int, config: Targets
) -> Wanted:
    """Ask for the anchor class alone."""
    targets = one_hot([place.anchor for place in places], teacher.classes)
    return Wanted(targets, [place.optimised for place in places])
