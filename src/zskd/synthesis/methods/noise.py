"""Noise: a transfer set without any optimisation, the control that every method must beat.

Nayak, Mopuri, Chakraborty: "Effectiveness of Arbitrary Transfer Sets for Data-free Knowledge
Distillation", WACV 2021, arXiv:2011.09113.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.types import TargetsArray
from zskd.models.classifier import Classifier
from zskd.synthesis.inversion.objective import Objective
from zskd.synthesis.methods.base import Method
from zskd.synthesis.plan import PlanEntry


@final
@dataclass(frozen=True, kw_only=True)
class Noise(Method):
    """Every image stays its start image."""

    optimises: ClassVar[bool] = False

    def targets(
        self, teacher: Classifier, entries: Sequence[PlanEntry], config: TargetsConfig, *, seed: int
    ) -> TargetsArray:
        """Return zeros (N, K), float32, which the teacher's outputs replace."""
        return np.zeros((len(entries), teacher.classes), dtype=np.float32)

    def objective(self, config: SynthesisConfig) -> Objective:
        """Return a sum without terms."""
        return Objective()
