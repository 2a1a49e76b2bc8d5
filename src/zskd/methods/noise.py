"""Noise: a transfer set without any optimisation, the control that every method must beat.

Nayak, Mopuri, Chakraborty: "Effectiveness of Arbitrary Transfer Sets for Data-free Knowledge
Distillation", WACV 2021, arXiv:2011.09113.
"""

from __future__ import annotations

import numpy as np

from zskd.classifier import Classifier
from zskd.config import Targets
from zskd.methods.wanted import Wanted
from zskd.targets import Place


def noise(teacher: Classifier, places: list[Place], indices: list[int], seed: int, config: Targets) -> Wanted:
    """Ask for nothing: every image stays as it started."""
    return Wanted(np.zeros((len(places), teacher.classes), dtype=np.float32), [False] * len(places))
