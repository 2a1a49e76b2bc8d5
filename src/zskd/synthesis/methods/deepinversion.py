"""DeepInversion: images whose batch statistics in the teacher are those of its data, one class each.

Yin, Molchanov, Alvarez, Li, Mallya, Hoiem, Jha, Kautz: "Dreaming to Distill: Data-free Knowledge Transfer via
DeepInversion", CVPR 2020, arXiv:1912.08795. docs/methods/deepinversion.md lists the differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from zskd.config.targets import TargetsConfig
from zskd.core.types import TargetsArray
from zskd.models.classifier import Classifier
from zskd.synthesis.dirichlet import one_hot
from zskd.synthesis.methods.with_statistics import MethodWithStatistics
from zskd.synthesis.plan import PlanEntry


@final
@dataclass(frozen=True, kw_only=True)
class DeepInversion(MethodWithStatistics):
    """One-hot targets of the anchor class, with statistics  (equations 2 to 5)."""

    def targets(
        self, teacher: Classifier, entries: Sequence[PlanEntry], config: TargetsConfig, *, seed: int
    ) -> TargetsArray:
        """Return one-hot rows (N, K), float32."""
        return one_hot([entry.anchor for entry in entries], teacher.classes)
