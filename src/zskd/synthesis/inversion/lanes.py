"""Lanes: the images that are optimised at the same time."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.core.types import Images, PerSample, SoftLabels
from zskd.training.per_sample_adam import LaneAdam


@dataclass(frozen=True)
class InversionBatch:
    """Images to optimise, in the order in which they take a lane."""

    starts: Images
    """First images (N, C, H, W)."""
    targets: SoftLabels
    """One row per image (N, K)."""
    warps: Tensor | None = None
    """Six numbers of U(0, 1) per image and step (N, steps, 6), where `SynthesisConfig.warp` moves images."""

    def __len__(self) -> int:
        return len(self.starts)

    def to(self, device: torch.device) -> InversionBatch:
        """Return it on a device."""
        warps = None if self.warps is None else self.warps.to(device)
        return InversionBatch(self.starts.to(device), self.targets.to(device), warps)


@dataclass(frozen=True)
class LaneState:
    """The lanes before one step."""

    numbers: Tensor
    """Which image each lane works on (lanes,); beyond the last one for a lane without any."""
    steps: Tensor
    """Steps that each of these images has taken (lanes,)."""
    images: Images
    """The images (lanes, C, H, W); not to be changed."""


@dataclass
class Lanes:
    """What is being worked on, and what is done."""

    batch: InversionBatch
    config: SynthesisConfig
    images: Images = field(init=False)
    adam: LaneAdam = field(init=False)
    finished: int = 0

    def __post_init__(self) -> None:
        """Give every lane its first image; a lane too many idles along with a copy."""
        count, device = len(self.batch), self.batch.starts.device
        self.numbers = torch.arange(self.config.batch_size, device=device).clamp(max=count)
        self._next = min(self.config.batch_size, count)
        self.images = self.batch.starts[self._rows()].clone()
        self.adam = LaneAdam.fresh(self.images)
        self.steps = torch.zeros(self.config.batch_size, dtype=torch.int32, device=device)
        # the last row is for lanes without an image
        self.results = self.batch.starts.new_empty(count + 1, *self.batch.starts.shape[1:])
        self.taken = torch.zeros(count + 1, dtype=torch.int32, device=device)

    def _rows(self) -> Tensor:
        return self.numbers.clamp(max=len(self.batch) - 1)

    @property
    def active(self) -> Tensor:
        """Which lanes hold an image (lanes,), bool."""
        return self.numbers < len(self.batch)

    @property
    def targets(self) -> SoftLabels:
        """The target of each lane's image (lanes, K)."""
        return self.batch.targets[self._rows()]

    @property
    def warps(self) -> Tensor | None:
        """Six random numbers for the next step of each lane (lanes, 6)."""
        if self.batch.warps is None:
            return None
        return self.batch.warps[self._rows(), self.steps.long()]

    def move_on(self, kl: PerSample, box: tuple[float, float]) -> int:
        """Count a step; store what is finished and give its lane away. Return how many were finished."""
        self.steps += 1
        going = kl >= (self.config.tolerance or -torch.inf)  # false for NaN, which ends the image as well
        over = (~going | (self.steps >= self.config.steps)).nonzero()[:, 0]
        if not len(over):
            return 0
        numbers = self.numbers[over]
        working = numbers < len(self.batch)
        lost = over[working][~torch.isfinite(kl[over][working])]
        if len(lost):
            raise ZskdError(
                f"synthesis: the loss is not finite at step {int(self.steps[lost[0]])} of an image: lower "
                "--synthesis.learning-rate, or raise --synthesis.tau"
            )
        self.results[numbers] = self.images[over].clamp(*box)
        self.taken[numbers] = self.steps[over]
        done = int(working.sum())
        self.finished += done
        self._refill(over)
        return done

    def _refill(self, over: Tensor) -> None:
        count = len(self.batch)
        fresh = torch.arange(self._next, self._next + len(over), device=over.device).clamp(max=count)
        self._next = min(self._next + len(over), count)
        self.numbers[over] = fresh
        self.steps[over] = 0
        if not self.config.carry_images:
            self.images[over] = self.batch.starts[fresh.clamp(max=count - 1)]
        if not self.config.carry_moments:
            self.adam.reset(over)
