"""DAFL: the generator makes images for which the teacher is certain and active, of all classes alike.

Chen et al.: "Data-Free Learning of Student Networks", ICCV 2019, arXiv:1904.01186. Every setting of their
MNIST program is in recipes/presets/dafl.yaml; docs/methods/dafl.md lists what differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor

from zskd.distillation.adversarial.base import GeneratorBatch, GeneratorMethod
from zskd.distillation.adversarial.terms import balance


@final
@dataclass(frozen=True, kw_only=True)
class DAFL(GeneratorMethod):
    """One-hot loss, activation loss and information entropy; the student is not read."""

    reads_student: ClassVar[bool] = False

    one_hot: float = 1.0
    """Weight of the cross-entropy with the class that the teacher predicts."""
    activation: float = 0.1
    """Weight of the mean absolute feature, which grows."""
    entropy: float = 5.0
    """Weight of the entropy of the mean output, which grows: all classes alike."""

    def __post_init__(self) -> None:
        """Check the weights."""
        super().__post_init__()
        self.check_range("one_hot", "activation", "entropy", low=0)

    def loss(self, batch: GeneratorBatch) -> Tensor:
        """Return one_hot·CE(T, argmax T) − activation·mean|f_T| + entropy·Σ_k p̄_k log p̄_k  (equation 5)."""
        logits = batch.teacher.logits
        certain = F.cross_entropy(logits, logits.argmax(1))
        active = batch.teacher.features.abs().mean() if self.activation else 0.0
        return self.one_hot * certain - self.activation * active + self.entropy * balance(logits)
