"""Images made against the student as it is, round after round, and shown again in all later ones.

The student's training is cut into rounds of equal length. At the beginning of each but the first, images of
the transfer set are changed until student and teacher differ on them, and are kept. They start afresh in each
round and take few steps: images that go on being driven apart drift into patterns that only fool the student.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from zskd.config.distillation import DistillConfig
from zskd.config.registry import LOSSES
from zskd.core.rng import torch_stream
from zskd.core.types import Images
from zskd.models.classifier import Classifier
from zskd.training.per_sample_adam import LaneAdam
from zskd.training.state import Companions

_LANES = 250
"""Images changed at the same time."""
Draw = Callable[[int, Generator], Images]
"""(how many, random numbers) → images to start from."""


class _Bank(nn.Module):
    """What has been made so far, in 256 grey levels: a module, so that it is saved like one."""

    def __init__(self, size: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.images: Tensor
        self.turn: Tensor
        self.made: Tensor
        self.register_buffer("images", torch.zeros(size, *shape, dtype=torch.uint8))
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))
        self.register_buffer("made", torch.zeros((), dtype=torch.int64))


class ImageBank:
    """Gives images of earlier rounds, and makes those of a new round at its beginning."""

    def __init__(
        self,
        teacher: Classifier,
        student: Classifier,
        config: DistillConfig,
        draw: Draw,
        *,
        seed: int,
        turns: int,
    ) -> None:
        """Begin without any.

        Args:
            teacher: frozen.
            student: as it learns.
            config: rounds, and the loss that says how far the two differ.
            draw: gives the images that a round starts from.
            seed: of these draws.
            turns: batches in all, which the rounds divide.
        """
        self._networks, self._config, self._draw = (student, teacher), config, draw
        self._seed, self._turns = seed, turns
        self._bank = _Bank(config.image_bank.keep, teacher.spec.shape)

    @property
    def companions(self) -> Companions:
        """What is saved with the student for the rounds to go on as they would have."""
        return {"rounds": (self._bank, None)}

    def images(self, count: int, numbers: Generator) -> Images:
        """Return images of earlier rounds (count, C, H, W); none of them in the first."""
        bank, rounds = self._bank, self._config.image_bank.count
        turn = int(bank.turn)
        number = turn * rounds // self._turns
        if number > (turn - 1) * rounds // self._turns and number > 0:
            self._make(number)
        bank.turn += 1
        there = min(int(bank.made), len(bank.images))
        if not there:
            return bank.images[:0].float()
        rows = torch.randint(there, (count,), generator=numbers)
        low, high = self._networks[1].spec.box
        return low + bank.images[rows].float() * ((high - low) / 255)

    def _make(self, number: int) -> None:
        """Make the images of a round; where the bank is full, the oldest make room."""
        bank, config = self._bank, self._config.image_bank
        numbers = torch_stream(self._seed, "round", number)
        starts = self._draw(min(config.images, len(bank.images)), numbers)
        low, high = self._networks[1].spec.box
        made = torch.cat([self._drive_apart(some) for some in torch.split(starts, _LANES)])
        rows = (int(bank.made) + torch.arange(len(made))) % len(bank.images)
        bank.images[rows] = ((made - low) * (255 / (high - low))).round().to(torch.uint8)
        bank.made += len(made)

    def _drive_apart(self, starts: Images) -> Images:
        """Climb the loss of the student, image by image."""
        student, teacher = self._networks
        images = starts.clone()
        adam, training = LaneAdam.fresh(images), student.training
        student.eval()
        for _ in range(self._config.image_bank.steps):
            leaf = images.detach().requires_grad_(True)
            # the mean over the batch scales all gradients alike, which Adam does not notice
            loss = LOSSES.load(self._config.loss)(student(leaf), teacher(leaf), self._config)
            (gradient,) = torch.autograd.grad(-loss, leaf)
            adam.update(images, gradient, self._config.image_bank.learning_rate)
            images.clamp_(*teacher.spec.box)
        student.train(training)
        return images
