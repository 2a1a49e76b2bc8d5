"""The methods: one file each, one signature for each of two kinds, two explicit tables.

A method that fills a transfer set says what the teacher shall answer for each index and which images are
optimised towards it; starts, optimisation and storage are the same for all. A method with a generator that
plays against the student says what the generator is after; the game itself is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable

from zskd.config.targets import TargetsConfig
from zskd.models.classifier import Classifier
from zskd.synthesis.methods.base import TargetBatch
from zskd.synthesis.methods.class_impressions import class_impressions
from zskd.synthesis.methods.noise import noise
from zskd.synthesis.methods.soft_targeted import soft_targeted
from zskd.synthesis.methods.zskd import zskd
from zskd.synthesis.plan import PlanEntry

Method = Callable[[Classifier, list[PlanEntry], list[int], int, TargetsConfig], TargetBatch]
"""(teacher, places in the plan, indices, seed, settings) → what is wanted of the teacher."""
METHODS: dict[str, Method] = {
    "zskd": zskd,
    "soft_targeted": soft_targeted,
    "class_impressions": class_impressions,
    "noise": noise,
}
