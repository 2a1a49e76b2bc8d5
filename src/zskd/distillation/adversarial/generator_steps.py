"""A generator that learns beside the student, from the loss of a generator method.

Its images are a share of the student's batches, or all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zskd.config.distillation import GeneratorConfig
from zskd.core.rng import torch_stream
from zskd.core.types import Images
from zskd.distillation.adversarial.base import GeneratorMethod
from zskd.distillation.adversarial.generator import Generator
from zskd.models.classifier import Classifier
from zskd.models.factory import fresh_weights
from zskd.training.loop import rate_at
from zskd.training.state import Companions


class AdversarialGenerator:
    """A generator and its optimiser: it makes batches, and takes a step of its own before some of them."""

    def __init__(
        self,
        teacher: Classifier,
        student: Classifier,
        method: GeneratorMethod,
        config: GeneratorConfig,
        *,
        seed: int,
        turns: int,
    ) -> None:
        """Build it.

        Args:
            teacher: frozen.
            student: as it learns.
            method: what the generator minimises.
            config: the generator, and how it learns.
            seed: of its first weights and of the vectors that images are made of.
            turns: batches in all, which the schedule of its learning rate is spread over.

        Raises:
            ZskdError: the teacher lacks the layers that the method reads.
        """
        method.check_teacher(teacher)
        self._teacher, self._student = teacher, student
        self._method, self._config = method, config
        self._seed, self._turns = seed, turns
        spec = teacher.spec

        def build() -> Generator:
            return Generator(latent=config.latent, width=config.width, shape=spec.shape, box=spec.box)

        self._generator = fresh_weights(build, seed).to(teacher.device)
        self._generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimiser = torch.optim.Adam(self._generator.parameters())

    @property
    def companions(self) -> Companions:
        """What is saved with the student, so that an interrupted training goes on as if it had not been."""
        return {"generator": (self._generator, self._optimiser)}

    def images(self, count: int) -> Images:
        """Return images for the student's next step (count, C, H, W)."""
        turn = int(self._generator.turn)
        number, since = divmod(turn, self._config.student_steps)
        if since == 0:
            self._learn(number, count)
        self._generator.turn += 1
        latents = self._latents("own", number, count) if self._config.same else None
        with torch.no_grad():
            made: Images = self._generator(
                self._latents("student's", turn, count) if latents is None else latents
            )
        return made

    def _learn(self, number: int, count: int) -> None:
        """Take one step of the generator; the student's gradients are left alone."""
        made = self._generator(self._latents("own", number, count))
        loss = self._method.loss_on(self._teacher, self._student, made)
        parameters = list(self._generator.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        done = number * self._config.student_steps
        rate = rate_at(self._config.learning_rate, self._config.schedule, done, self._turns)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self._optimiser.zero_grad()

    def _latents(self, whose: str, index: int, count: int) -> Tensor:
        numbers = torch_stream(self._seed, f"{whose} latents", index)
        drawn = torch.randn(count, self._config.latent, generator=numbers)
        return drawn.to(self._teacher.device)
