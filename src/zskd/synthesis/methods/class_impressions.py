"""Class impressions: the ablation of ZSKD without class similarity; targets are one-hot.

Mopuri, Uppala, Babu: "Ask, Acquire, and Attack: Data-free UAP Generation using Class Impressions",
ECCV 2018, arXiv:1808.01153.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from zskd.config.synthesis import SynthesisConfig
from zskd.synthesis.inversion.objective import Objective, match_targets
from zskd.synthesis.methods.base import OF_DIRICHLET, Method, one_hot_targets


@final
@dataclass(frozen=True, kw_only=True)
class ClassImpressions(Method):
    """One-hot targets of the anchor class."""

    ignores: ClassVar[frozenset[str]] = OF_DIRICHLET

    targets = one_hot_targets

    def objective(self, config: SynthesisConfig) -> Objective:
        """Return the cross-entropy with the anchor class at τ, and the penalty of `config`."""
        return match_targets(config)
