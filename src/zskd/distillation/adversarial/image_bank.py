"""An adversarial image bank: stored images on which student and teacher differ, for later batches.

The student's training is divided into rounds of equal length. At the beginning of each round but the first,
images of the transfer set are optimised to increase the student's loss, and stored in the bank. Every round
starts from other images and takes few steps: after many steps, images become patterns that only fool the
student.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Generator, Tensor, nn

from zskd.config.distillation import DistillConfig
from zskd.config.registry import LOSSES
from zskd.core.device import to_device
from zskd.core.levels import from_levels, to_levels
from zskd.core.memory import at_once
from zskd.core.rng import torch_stream
from zskd.core.types import Images
from zskd.models.classifier import Classifier
from zskd.models.modes import in_mode
from zskd.training.per_sample_adam import LaneAdam
from zskd.training.state import Companions

_LANES = 250
"""Images optimised at the same time, fewer of large ones."""
_MOST_BYTES = 2**29
"""Of the images of a bank."""
Draw = Callable[[int, Generator], Images]
"""(count, random numbers) → images to start from (count, C, H, W)."""


class _Bank(nn.Module):
    """The stored images, in 256 grey levels: a module, so that it is saved like one; it stays on the CPU."""

    def __init__(self, size: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        size = max(1, min(size, _MOST_BYTES // prod(shape)))
        self.images: Tensor
        self.turn: Tensor
        """Batches so far."""
        self.made: Tensor
        """Images made so far, replaced ones included."""
        self.register_buffer("images", torch.zeros(size, *shape, dtype=torch.uint8))
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))
        self.register_buffer("made", torch.zeros((), dtype=torch.int64))


class ImageBank:
    """Returns stored images of earlier rounds, and makes new ones at the beginning of a round."""

    def __init__(
        self,
        teacher: Classifier,
        student: Classifier,
        config: DistillConfig,
        draw: Draw,
        *,
        seed: int,
        steps: int,
    ) -> None:
        """Create an empty bank.

        Args:
            teacher: frozen.
            student: the network in training.
            config: size of the bank, rounds, and the loss that the images maximise.
            draw: returns the images that a round starts from.
            seed: of these draws.
            steps: of the student in all, divided into the rounds.
        """
        self._networks, self._config, self._draw = (student, teacher), config, draw
        self._seed, self._steps = seed, steps
        self._bank = _Bank(config.image_bank.keep, teacher.spec.shape)

    @property
    def companions(self) -> Companions:
        """What is saved with the student, so that an interrupted training resumes to the same bytes."""
        return {"rounds": (self._bank, None)}

    def images(self, count: int, rng: Generator) -> Images:
        """Return images of earlier rounds for the student's next step (count, C, H, W), inside the teacher's
        input box; in the first round (0, C, H, W)."""
        bank, rounds = self._bank, self._config.image_bank.count
        step = int(bank.turn)
        number = step * rounds // self._steps
        if number > (step - 1) * rounds // self._steps and number > 0:
            self._make(number)
        bank.turn += 1
        stored = min(int(bank.made), len(bank.images))
        rows = torch.randint(stored, (count,), generator=rng) if stored else torch.arange(0)
        levels = to_device(bank.images[rows], self._networks[1].device)
        return from_levels(levels, self._networks[1].spec.box)

    def _make(self, number: int) -> None:
        """Make the images of a round; in a full bank they replace the oldest ones."""
        bank, config = self._bank, self._config.image_bank
        rng = torch_stream(self._seed, "round", number)
        count, shape = min(config.images, len(bank.images)), self._networks[1].spec.shape
        box = self._networks[1].spec.box
        for part in torch.split(torch.arange(count), at_once(count, shape)):
            for batch in torch.split(self._draw(len(part), rng), at_once(_LANES, shape)):
                made = self._maximise_loss(batch)
                rows = (int(bank.made) + torch.arange(len(made))) % len(bank.images)
                bank.images[rows] = to_levels(made, box).cpu()
                bank.made += len(made)

    def _maximise_loss(self, starts: Images) -> Images:
        """Take steps that increase the student's loss, for each image on its own."""
        student, teacher = self._networks
        images = starts.clone()
        adam = LaneAdam.fresh(images)
        with in_mode(student, training=False):
            for _ in range(self._config.image_bank.steps):
                leaf = images.detach().requires_grad_(True)
                # the mean over the batch scales all gradients alike, and Adam does not depend on their scale
                loss = LOSSES.load(self._config.loss)(student(leaf), teacher(leaf), self._config)
                (gradient,) = torch.autograd.grad(-loss, leaf)
                adam.update(images, gradient, self._config.image_bank.learning_rate)
                images.clamp_(*teacher.spec.box)
        return images
