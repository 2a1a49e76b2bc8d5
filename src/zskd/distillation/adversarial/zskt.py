"""ZSKT: the generator maximises the divergence of the student's output from the teacher's.

Micaelli, Storkey: "Zero-shot Knowledge Transfer via Adversarial Belief Matching", NeurIPS 2019,
arXiv:1905.09768. The settings of their program are in recipes/presets/zskt.yaml; it also limits the norm of
all gradients to 5, which is left out here.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from zskd.distillation.adversarial.base import GeneratorBatch, GeneratorMethod
from zskd.distillation.losses import divergences


@final
class ZSKT(GeneratorMethod):
    """Maximises the Kullback–Leibler divergence of the outputs."""

    def loss(self, batch: GeneratorBatch) -> Tensor:
        """Return −KL(T ‖ S) at τ = 1, averaged over images, in nats, at most 0  (equation 1)."""
        return -divergences(batch.student.logits, batch.teacher.logits).mean()
