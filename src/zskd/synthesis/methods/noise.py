"""Noise: a transfer set without any optimisation, the control that every method must beat.

Nayak, Mopuri, Chakraborty: "Effectiveness of Arbitrary Transfer Sets for Data-free Knowledge
Distillation", WACV 2021, arXiv:2011.09113.
"""

from __future__ import annotations

import numpy as np

from zskd.config.targets import TargetsConfig
from zskd.models.classifier import Classifier
from zskd.synthesis.methods.base import TargetBatch
from zskd.synthesis.plan import PlanEntry


def noise(
    teacher: Classifier, places: list[PlanEntry], indices: list[int], seed: int, config: TargetsConfig
) -> TargetBatch:
    """Ask for nothing: every image stays as it started."""
    return TargetBatch(np.zeros((len(places), teacher.classes), dtype=np.float32), [False] * len(places))
