"""An adversarial generator: trained together with the student, by the loss of a generator method.

Its images are a share of the student's batches, or all of them.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from zskd.config.distillation import GeneratorConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.device import to_device
from zskd.core.errors import ZskdError
from zskd.core.memory import at_once
from zskd.core.rng import keep_global_rng, numpy_stream, seed_global_rng, torch_stream
from zskd.core.types import Images
from zskd.data.transforms import augment
from zskd.distillation.adversarial.base import GeneratorMethod
from zskd.distillation.adversarial.generator import Generator
from zskd.distillation.adversarial.statistics import Statistics
from zskd.distillation.pool import ImagePool
from zskd.models.classifier import Classifier
from zskd.models.factory import fresh_weights
from zskd.models.modes import in_mode
from zskd.training.loop import rate_at
from zskd.training.losses import checked_loss
from zskd.training.state import Companions

_PART: Final = 500
"""Images for statistics that are made at once: the layers of a generator take much memory for them."""


class AdversarialGenerator:
    """A generator and its optimiser; before some of its batches it takes an optimisation step.

    Beside them, where the settings say so: a moving average of its weights, the statistics of earlier batches
    and a pool of images. All of it is saved and restored with the student.
    """

    def __init__(
        self,
        teacher: Classifier,
        student: Classifier,
        method: GeneratorMethod,
        config: GeneratorConfig,
        *,
        seed: int,
        steps: int,
        augmentation: AugmentConfig | None = None,
    ) -> None:
        """Build the generator with fresh weights.

        Args:
            teacher: frozen.
            student: the network in training.
            method: the loss that the generator minimises, and the targets that it receives.
            config: size and training of the generator.
            seed: of its initial weights and of the random vectors.
            steps: of the student in all; the learning rate's schedule covers them.
            augmentation: of the student's images, where `config.augmented` asks for it; mixtures and JPEG
                files, which have no gradient, are left out.

        Raises:
            ZskdError: the teacher lacks the layers that the method reads.
        """
        method.check_teacher(teacher)
        self._teacher, self._student = teacher, student
        self._method, self._config = method, config
        self._seed, self._steps = seed, steps
        self._augmentation = replace(augmentation or AugmentConfig(), mixup=0.0, cutmix=0.0, jpeg=0.0)
        spec = teacher.spec
        conditional = method.targets(1, teacher.classes, numpy_stream(seed, "targets", 0)) is not None

        def build() -> Generator:
            return Generator(
                latent=config.latent,
                width=config.width,
                shape=spec.shape,
                box=spec.box,
                classes=teacher.classes if conditional else 0,
                style=config.style,
            )

        self._generator = fresh_weights(build, seed).to(teacher.device)
        self._generator.turn = self._generator.turn.cpu()  # each step reads it
        self._generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimiser = torch.optim.Adam(self._generator.parameters(), betas=(config.beta1, 0.999))
        self._shown = copy.deepcopy(self._generator) if config.average else self._generator
        self._statistics = Statistics(teacher, config.momentum).to(teacher.device)
        self._pool = ImagePool(config.pool, spec.shape, spec.box) if config.pool else None
        self._kept: Images | None = None
        """The student's new images since the generator's last step, where all its batches get the same."""
        self._rows = torch.empty(0, dtype=torch.int64)
        """Rows in the pool of the first images of the last batch."""

    @property
    def companions(self) -> Companions:
        """What is saved with the student, so that an interrupted training resumes to the same bytes."""
        found: dict[str, tuple[nn.Module, torch.optim.Optimizer | None]] = {
            "generator": (self._generator, self._optimiser)
        }
        if self._config.average:
            found["averaged generator"] = (self._shown, None)
        if self._config.momentum:
            found["statistics"] = (self._statistics, None)
        if self._pool is not None:
            found["pool"] = (self._pool, None)
        return found

    def images(self, count: int) -> Images:
        """Return images for the student's next step (count, C, H, W), inside the teacher's input box.

        Those of the pool come first, then new ones.
        """
        if not count:  # a share of less than half an image
            self._rows = torch.empty(0, dtype=torch.int64)
            return self._new_images("nobody's", 0, 0)
        step = int(self._generator.turn)
        own_step, since = divmod(step, self._config.student_steps)
        if step == 0:
            self._warm_up(count)
        if since == 0:
            self._train(own_step, count)
        self._generator.turn += 1

        def new_images(many: int) -> Images:
            if self._config.same:
                return self._same_images(own_step, many, first=since == 0)
            return self._new_images("student's", step, many)

        if self._pool is None:
            return new_images(count)
        again = self._pool.draw(round(self._config.replay * count), torch_stream(self._seed, "replay", step))
        new = new_images(count - len(again))
        images = torch.cat([to_device(self._pool.read(again), new.device), new])
        self._rows = torch.cat([again, self._pool.add(new, again)])
        return images

    @property
    def learns(self) -> bool:
        """Whether `record` is of use."""
        return self._pool is not None

    def record(self, divergence: Tensor) -> None:
        """Tell the pool how far apart the networks are on the last images.

        Args:
            divergence: KL(T ‖ S) of each of them (N,), in nats.
        """
        if self._pool is not None:
            self._pool.record(self._rows, divergence[: len(self._rows)])

    def images_for_statistics(self, count: int) -> Images:
        """Return images of the generator as it is now (count, C, H, W); it takes no step.

        Large images are made in parts.
        """
        inputs = self._inputs("statistics'", int(self._generator.turn), count)
        size = at_once(min(count, _PART), self._teacher.spec.shape)
        parts = [torch.split(one, size) for one in inputs if one is not None]
        with in_mode(self._shown, training=False), torch.no_grad():
            return torch.cat([self._shown(*part) for part in zip(*parts, strict=True)])

    def _same_images(self, own_step: int, count: int, *, first: bool) -> Images:
        """Return the images that all batches after a step of the generator get (count, C, H, W): made once.

        A resumed training makes them again; the generator's running statistics move the first time only.
        """
        if not first and self._kept is not None and len(self._kept) == count:
            return self._kept
        restored = [] if first else [(value, value.clone()) for value in self._shown.buffers()]
        self._kept = self._new_images("own", own_step, count)
        for value, before in restored:
            value.copy_(before)
        return self._kept

    def _new_images(self, whose: str, index: int, count: int) -> Images:
        if not count:
            return torch.empty(0, *self._teacher.spec.shape, device=self._teacher.device)
        with torch.no_grad():
            images: Images = self._shown(*self._inputs(whose, index, count))
        return images

    def _warm_up(self, count: int) -> None:
        """Take the steps before the student's first: they do not read the student, and it does not change."""
        for index in range(self._config.warm_up):
            images, targets = self._images_to_learn_from("warm-up", index, count)
            self._step(
                self._method.loss_on(
                    self._teacher, None, images, targets=targets, statistics=self._statistics
                ),
                self._config.learning_rate,
            )

    def _train(self, own_step: int, count: int) -> None:
        """Take one optimisation step of the generator; the student's gradients stay as they are."""
        renew = self._config.renew
        if renew and own_step and own_step % renew == 0:
            self._renew(own_step)
        images, targets = self._images_to_learn_from("own", own_step, count)
        with keep_global_rng():  # from which the student's dropout draws
            seed_global_rng(self._seed, "generator's dropout", own_step)
            loss = self._method.loss_on(
                self._teacher, self._student, images, targets=targets, statistics=self._statistics
            )
        done = own_step * self._config.student_steps
        self._step(loss, rate_at(self._config.learning_rate, self._config.schedule, done, self._steps))

    def _images_to_learn_from(self, whose: str, step: int, count: int) -> tuple[Images, Tensor | None]:
        """Return images, part of the graph and augmented where the settings say so, and their targets."""
        latents, targets = self._inputs(whose, step, count)
        images = self._generator(latents, targets)
        if self._config.augmented:
            purpose = "generator's augmentation" if whose == "own" else f"{whose} augmentation"
            rng = torch_stream(self._seed, purpose, step)
            images = augment(images, self._augmentation, self._teacher.spec.box, rng)
        return images, targets

    def _step(self, loss: Tensor, rate: float) -> None:
        """Take one step of the optimiser, and let the average follow."""
        loss = checked_loss(loss, f"the loss of --distill.generator.method {self._config.method}")
        parameters = list(self._generator.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self._optimiser.zero_grad()
        if self._config.average:
            self._follow()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the averaged weights towards those of the generator."""
        pairs = zip(self._shown.parameters(), self._generator.parameters(), strict=True)
        for averaged, value in pairs:
            averaged.lerp_(value, 1 - self._config.average)

    @torch.no_grad()
    def _renew(self, own_step: int) -> None:
        """Give the first layer new random weights, here and in the average, and forget its moments."""
        first = self._generator.project
        with keep_global_rng():
            seed_global_rng(self._seed, "renewed layer", own_step)
            fresh = nn.Linear(first.in_features, first.out_features, bias=first.bias is not None)
        for network in {self._generator, self._shown}:
            network.project.load_state_dict(fresh.state_dict())
        for parameter in first.parameters():
            self._optimiser.state.pop(parameter, None)

    def _inputs(self, whose: str, step: int, count: int) -> tuple[Tensor, Tensor | None]:
        """Return random vectors (count, latent) and targets (count, K) of a batch."""
        rng = torch_stream(self._seed, f"{whose} latents", step)
        latents = to_device(torch.randn(count, self._config.latent, generator=rng), self._teacher.device)
        drawn = numpy_stream(self._seed, f"{whose} targets", step)
        targets = self._method.targets(count, self._teacher.classes, drawn)
        if targets is None:
            return latents, None
        targets = torch.as_tensor(targets, dtype=torch.float32)  # NumPy's are taken as well
        if targets.shape != (count, self._teacher.classes):
            raise ZskdError(
                f"targets of --distill.generator.method {self._config.method} are {tuple(targets.shape)}: "
                f"give one row for each image, {(count, self._teacher.classes)}"
            )
        return latents, to_device(targets, self._teacher.device)
