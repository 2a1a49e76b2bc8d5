"""DeepInversion: images whose batch statistics in the teacher are those of its data, one class each.

Yin, Molchanov, Alvarez, Li, Mallya, Hoiem, Jha, Kautz: "Dreaming to Distill: Data-free Knowledge Transfer via
DeepInversion", CVPR 2020, arXiv:1912.08795. docs/methods/deepinversion.md lists the differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from zskd.synthesis.methods.base import OF_DIRICHLET, one_hot_targets
from zskd.synthesis.methods.with_statistics import MethodWithStatistics


@final
@dataclass(frozen=True, kw_only=True)
class DeepInversion(MethodWithStatistics):
    """One-hot targets of the anchor class, with statistics  (equations 2 to 5)."""

    ignores: ClassVar[frozenset[str]] = OF_DIRICHLET

    targets = one_hot_targets
