"""An adversarial generator: trained together with the student, by the loss of a generator method.

Its images are a share of the student's batches, or all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zskd.config.distillation import GeneratorConfig
from zskd.core.rng import keep_global_rng, seed_global_rng, torch_stream
from zskd.core.types import Images
from zskd.distillation.adversarial.base import GeneratorMethod
from zskd.distillation.adversarial.generator import Generator
from zskd.models.classifier import Classifier
from zskd.models.factory import fresh_weights
from zskd.models.modes import in_mode
from zskd.training.loop import rate_at
from zskd.training.state import Companions


class AdversarialGenerator:
    """A generator and its optimiser; before some of its batches it takes an optimisation step."""

    def __init__(
        self,
        teacher: Classifier,
        student: Classifier,
        method: GeneratorMethod,
        config: GeneratorConfig,
        *,
        seed: int,
        steps: int,
    ) -> None:
        """Build the generator with fresh weights.

        Args:
            teacher: frozen.
            student: the network in training.
            method: the loss that the generator minimises.
            config: size and training of the generator.
            seed: of its initial weights and of the random vectors.
            steps: of the student in all; the learning rate's schedule covers them.

        Raises:
            ZskdError: the teacher lacks the layers that the method reads.
        """
        method.check_teacher(teacher)
        self._teacher, self._student = teacher, student
        self._method, self._config = method, config
        self._seed, self._steps = seed, steps
        spec = teacher.spec

        def build() -> Generator:
            return Generator(latent=config.latent, width=config.width, shape=spec.shape, box=spec.box)

        self._generator = fresh_weights(build, seed).to(teacher.device)
        self._generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimiser = torch.optim.Adam(self._generator.parameters())

    @property
    def companions(self) -> Companions:
        """What is saved with the student, so that an interrupted training resumes to the same bytes."""
        return {"generator": (self._generator, self._optimiser)}

    def images(self, count: int) -> Images:
        """Return images for the student's next step (count, C, H, W), inside the teacher's input box."""
        step = int(self._generator.turn)
        own_step, since = divmod(step, self._config.student_steps)
        if since == 0:
            self._train(own_step, count)
        self._generator.turn += 1
        if self._config.same:
            latents = self._latents("own", own_step, count)
        else:
            latents = self._latents("student's", step, count)
        with torch.no_grad():
            images: Images = self._generator(latents)
        return images

    def images_for_statistics(self, count: int) -> Images:
        """Return images of the generator as it is now (count, C, H, W); it takes no step."""
        with in_mode(self._generator, training=False), torch.no_grad():
            images: Images = self._generator(self._latents("statistics'", int(self._generator.turn), count))
        return images

    def _train(self, own_step: int, count: int) -> None:
        """Take one optimisation step of the generator; the student's gradients stay as they are."""
        images = self._generator(self._latents("own", own_step, count))
        with keep_global_rng():  # from which the student's dropout draws
            seed_global_rng(self._seed, "generator's dropout", own_step)
            loss = self._method.loss_on(self._teacher, self._student, images)
        parameters = list(self._generator.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        done = own_step * self._config.student_steps
        rate = rate_at(self._config.learning_rate, self._config.schedule, done, self._steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self._optimiser.zero_grad()

    def _latents(self, whose: str, step: int, count: int) -> Tensor:
        rng = torch_stream(self._seed, f"{whose} latents", step)
        return torch.randn(count, self._config.latent, generator=rng).to(self._teacher.device)
