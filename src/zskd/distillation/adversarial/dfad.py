"""DFAD: the generator maximises the difference of the student's logits from the teacher's.

Fang, Song, Shen, Wang, Chen, Song: "Data-Free Adversarial Distillation", 2019, arXiv:1912.11006. The
settings of their MNIST program are in recipes/presets/dfad.yaml; its weight decay is for all parameters, ours
for those of matrices and convolutions.
"""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from torch import Tensor

from zskd.distillation.adversarial.base import GeneratorBatch, GeneratorMethod


@final
class DFAD(GeneratorMethod):
    """Maximises the mean absolute difference of the logits."""

    def loss(self, batch: GeneratorBatch) -> Tensor:
        """Return −|S − T|, averaged over images and classes, at most 0  (equation 4)."""
        return -F.l1_loss(batch.student.logits, batch.teacher.logits)
