"""DFQ: an adversarial generator whose images have the batch-norm statistics of the teacher's training.

Choi, Choi, El-Khamy, Lee: "Data-Free Network Quantization with Adversarial Knowledge Distillation", CVPR
workshops 2020, arXiv:2005.04136. docs/methods/dfq.md lists what differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zskd.distillation.adversarial.base import GeneratorBatch, GeneratorMethod
from zskd.distillation.adversarial.terms import balance, uncertainty
from zskd.distillation.losses import divergences
from zskd.models.batch_statistics import BatchStatistics


@final
@dataclass(frozen=True, kw_only=True)
class DFQ(GeneratorMethod):
    """Maximises the divergence of the outputs, and minimises three auxiliary losses."""

    reads_statistics: ClassVar[bool] = True

    adversarial: float = 1.0
    """Weight of KL(T ‖ S), which grows."""
    statistics: float = 1.0
    """Weight of the divergence from the normal distributions of the teacher's batch-norm."""
    one_hot: float = 1.0
    """Weight of the entropy of each output, which shrinks: certain outputs."""
    entropy: float = 1.0
    """Weight of the entropy of the mean output, which grows: all classes alike."""

    def __post_init__(self) -> None:
        """Check the weights."""
        super().__post_init__()
        self.check_range("adversarial", "statistics", "one_hot", "entropy", low=0)

    def loss(self, batch: GeneratorBatch) -> Tensor:
        """Return −KL(T ‖ S) + statistics + mean entropy of the outputs − entropy of the mean output."""
        of_layers = torch.stack([normal_divergence(one) for one in batch.statistics])
        apart = divergences(batch.student.logits, batch.teacher.logits).mean()
        return (
            self.statistics * of_layers.mean()
            + self.one_hot * uncertainty(batch.teacher.logits)
            + self.entropy * balance(batch.teacher.logits)
            - self.adversarial * apart
        )


def normal_divergence(layer: BatchStatistics) -> Tensor:
    """Return KL(N(μ̂, σ̂²) ‖ N(μ, σ²)), batch from running statistics, in nats, averaged over channels.

    ε of the layer is added to both variances.
    """
    var, running = layer.var + layer.eps, layer.running_var + layer.eps
    shift = (layer.mean - layer.running_mean).square()
    return ((running / var).log() + (var + shift) / running - 1).mean() / 2
