"""Images with the teacher's batch-norm statistics and certain classes, on which teacher and student disagree.

The classes may be given: then the generator has class input.

The sum of terms that the best data-free generators share (CMI, arXiv:2105.08584; Fast-Datafree,
arXiv:2112.06253; NAYER, arXiv:2310.00258), written from their equations. docs/methods/conditional.md has the
sources of each part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.core.errors import ZskdError
from zskd.distillation.adversarial.base import GeneratorBatch, GeneratorMethod
from zskd.distillation.adversarial.terms import balance, uncertainty
from zskd.distillation.losses import divergences


@final
@dataclass(frozen=True, kw_only=True)
class Conditional(GeneratorMethod):
    """Batch-norm statistics, certain and balanced classes, and disagreement where both predict one class."""

    reads_statistics: ClassVar[bool] = True

    statistics: float = 1.0
    """Weight of the distances from the batch-norm statistics of the teacher."""
    class_input: bool = False
    """Draw the classes of the images and give them to the generator; false: the teacher tells the classes."""
    one_hot: float = 1.0
    """Weight of the cross-entropy with the targets; without class input, of the mean entropy of the teacher's
    outputs, which shrinks."""
    balance: float = 5.0
    """Weight of the entropy of the mean output of a batch, which grows: all classes alike."""
    disagreement: float = 0.5
    """Weight of KL(T ‖ S), which grows, on images that both networks give the same class."""
    concentration: float = 0.0
    """Each target is drawn from the Dirichlet distribution with this parameter for every class; 0: one-hot
    targets, each class equally often."""

    def __post_init__(self) -> None:
        """Check the weights."""
        super().__post_init__()
        self.check_range("statistics", "one_hot", "balance", "disagreement", "concentration", low=0)
        if self.concentration and not self.class_input:
            raise ZskdError(
                f"{self.option('concentration')} needs targets: give {self.option('class_input')} true"
            )

    def targets(self, count: int, classes: int, rng: np.random.Generator) -> Tensor | None:
        """Return one-hot targets, balanced, or draws from a Dirichlet distribution (count, classes); None
        without class input."""
        if not self.class_input:
            return None
        if self.concentration:
            drawn = rng.dirichlet(np.full(classes, self.concentration), count)
            return torch.from_numpy(drawn.astype(np.float32))
        turns = [rng.permutation(classes) for _ in range(-(-count // classes))]
        return F.one_hot(torch.from_numpy(np.concatenate(turns)[:count]), classes).float()

    def loss(self, batch: GeneratorBatch) -> Tensor:
        """Return statistics·Σ_l(‖μ − μ̂‖₂ + ‖σ² − σ̂²‖₂) + one_hot·C − balance·H(p̄) − disagreement·D.

        C is CE(T, y), or mean H(p) without class input. D is mean(KL(T‖S)·m), and m is 1 on the images that
        teacher and student give the same class, and 0 on all others.
        """
        of_teacher, of_student = batch.teacher.logits, batch.student.logits
        distance = torch.stack(
            [
                (one.mean - one.running_mean).norm() + (one.var - one.running_var).norm()
                for one in batch.statistics
            ]
        ).sum()
        if batch.targets is None:
            classes = uncertainty(of_teacher)
        else:
            classes = F.cross_entropy(of_teacher, batch.targets)
        loss = self.statistics * distance + self.one_hot * classes
        if self.balance:
            loss = loss + self.balance * balance(of_teacher)
        same = of_teacher.argmax(1) == of_student.argmax(1)
        return loss - self.disagreement * (divergences(of_student, of_teacher) * same).mean()
