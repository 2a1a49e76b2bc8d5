"""Lanes: the slots of a batch, each of which optimises one image at a time."""

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
    """Start images (N, C, H, W)."""
    targets: SoftLabels
    """(N, K), rows on the probability simplex."""
    warps: Tensor | None = None
    """Six numbers of U(0, 1) per image and step (N, steps, 6), where `SynthesisConfig.warp` moves images."""

    def __len__(self) -> int:
        return len(self.starts)

    def to(self, device: torch.device) -> InversionBatch:
        """Return the batch on a device."""
        warps = None if self.warps is None else self.warps.to(device)
        return InversionBatch(self.starts.to(device), self.targets.to(device), warps)


@dataclass(frozen=True)
class LaneState:
    """The state of the lanes before one step."""

    numbers: Tensor
    """Number of the image in each lane (lanes,); N for a lane without an image."""
    steps: Tensor
    """Steps that each of these images has taken (lanes,), int32."""
    images: Images
    """The images (lanes, C, H, W); must not be changed."""


@dataclass
class Lanes:
    """The images in optimisation and the results of finished ones."""

    batch: InversionBatch
    config: SynthesisConfig
    images: Images = field(init=False)
    adam: LaneAdam = field(init=False)
    finished: int = 0

    def __post_init__(self) -> None:
        """Put the first images into the lanes; a lane without an image holds a copy of the last one."""
        count, device = len(self.batch), self.batch.starts.device
        self.numbers = torch.arange(self.config.batch_size, device=device).clamp(max=count)
        self._next = min(self.config.batch_size, count)
        self.images = self.batch.starts[self._rows()].clone()
        self.adam = LaneAdam.fresh(self.images)
        self.steps = torch.zeros(self.config.batch_size, dtype=torch.int32, device=device)
        # the last row belongs to lanes without an image
        self.results = self.batch.starts.new_empty(count + 1, *self.batch.starts.shape[1:])
        self.steps_taken = torch.zeros(count + 1, dtype=torch.int32, device=device)

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

    def advance(self, kl: PerSample, box: tuple[float, float]) -> int:
        """Count a step; store finished images and refill their lanes.

        Args:
            kl: KL(y ‖ softmax(T(A(x))/τ)) before the step (lanes,), in nats.
            box: least and largest pixel value, which results are clamped to.

        Returns:
            The number of finished images.

        Raises:
            ZskdError: the loss of an image is not finite.
        """
        self.steps += 1
        unmet = kl >= (self.config.tolerance or -torch.inf)  # false for NaN, which ends the image too
        finished = (~unmet | (self.steps >= self.config.steps)).nonzero()[:, 0]
        if not len(finished):
            return 0
        numbers = self.numbers[finished]
        with_image = numbers < len(self.batch)
        diverged = finished[with_image][~torch.isfinite(kl[finished][with_image])]
        if len(diverged):
            raise ZskdError(
                f"synthesis: the loss is not finite at step {int(self.steps[diverged[0]])} of an image: "
                "lower --synthesis.learning-rate, or raise --synthesis.tau"
            )
        self.results[numbers] = self.images[finished].clamp(*box)
        self.steps_taken[numbers] = self.steps[finished]
        done = int(with_image.sum())
        self.finished += done
        self._refill(finished)
        return done

    def _refill(self, lanes: Tensor) -> None:
        count = len(self.batch)
        numbers = torch.arange(self._next, self._next + len(lanes), device=lanes.device).clamp(max=count)
        self._next = min(self._next + len(lanes), count)
        self.numbers[lanes] = numbers
        self.steps[lanes] = 0
        if not self.config.carry_images:
            self.images[lanes] = self.batch.starts[numbers.clamp(max=count - 1)]
        if not self.config.carry_moments:
            self.adam.reset(lanes)
