"""Noise: a transfer set without any optimisation, the control that every method must beat.

Nayak, Mopuri, Chakraborty: "Effectiveness of Arbitrary Transfer Sets for Data-free Knowledge
Distillation", WACV 2021, arXiv:2011.09113.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from zskd.config.synthesis import SynthesisConfig
from zskd.synthesis.inversion.objective import Objective
from zskd.synthesis.methods.base import OF_DESCENT, OF_DIRICHLET, Method, no_targets


@final
@dataclass(frozen=True, kw_only=True)
class Noise(Method):
    """Every image stays its start image."""

    optimises: ClassVar[bool] = False
    ignores: ClassVar[frozenset[str]] = (
        OF_DESCENT | OF_DIRICHLET | {"synthesis.steps", "synthesis.noise_share"}
    )

    targets = no_targets

    def objective(self, config: SynthesisConfig) -> Objective:
        """Return a sum without terms."""
        return Objective()
