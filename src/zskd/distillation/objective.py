"""What the student minimises: the sum of its losses on a batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.config.distillation import DistillConfig
from zskd.config.registry import LOSSES
from zskd.distillation.features.paired import PairedFeatures
from zskd.distillation.losses import divergences
from zskd.models.classifier import Classifier
from zskd.training.batches import Batch
from zskd.training.loop import percent_of_class
from zskd.training.losses import checked_loss

Learn = Callable[[Tensor], None]
"""Receives a number for each image of a batch."""


class Objective:
    """The weighted sum of the losses of the settings."""

    def __init__(
        self,
        student: Classifier,
        config: DistillConfig,
        features: PairedFeatures | None,
        learn: Learn | None = None,
        *,
        remember: int = 1,
    ) -> None:
        """Read the loss of the logits.

        Args:
            student: in training.
            config: losses and weights.
            features: of student and teacher; None where no loss reads them.
            learn: receives KL(T ‖ S) of each image of a batch (N,), in nats; None: it is not computed.
            remember: for how many steps `explain` can be asked about.

        Raises:
            ZskdError: unknown loss.
        """
        self._student, self._config, self._features = student, config, features
        self._loss_of = LOSSES.load(config.loss)
        self._learn = learn
        self._last: Batch = ()
        self._images = torch.empty(0)
        self._teachers: deque[Tensor] = deque(maxlen=remember)

    def loss(self, batch: Batch) -> Tensor:
        """Return the weighted sum of all losses, a scalar."""
        config, features = self._config, self._features
        images, teacher_logits, labels, *of_teacher = batch
        if features is None:
            logits, of_student = self._student(images), list[Tensor]()
        else:
            logits, of_student = features.of_student(self._student, images)
        self._last, self._images = (logits.detach(), teacher_logits), images
        self._teachers.append(teacher_logits)
        if self._learn is not None:
            self._learn(divergences(*self._last).clamp_min(0))
        parts = []
        if config.teacher_weight:
            own = self._loss_of(logits, teacher_logits, config)
            own = checked_loss(own, f"--distill.loss {config.loss}", learns=logits.requires_grad)
            parts.append(own * config.teacher_weight)
        if config.label_weight:
            parts.append(F.cross_entropy(logits, labels) * config.label_weight)
        if features is not None:
            parts.append(features.distance(of_student, of_teacher) * config.features.weight)
        return torch.stack(parts).sum()

    def watch(self) -> dict[str, float]:
        """Return the agreement on the last batch, in percent."""
        logits, teacher_logits = self._last
        return {"agreement": percent_of_class(logits, teacher_logits.argmax(1))}

    def explain(self, ago: int) -> str | None:
        """Return why the loss of so many steps ago is not finite, if generator or teacher are the reason.

        The last images stand for those of that step: a generator that has diverged stays so.
        """
        generator = self._config.generator
        if generator.share and not bool(torch.isfinite(self._images).all()):
            option = f"{generator.option('learning_rate')} ({generator.learning_rate:g})"
            return f"the generator's images are not finite: lower {option}"
        if bool(torch.isfinite(self._teachers[-1 - ago]).all()):
            return None
        return "the teacher's logits are not finite: check its weights, mean and std with zskd inspect"
