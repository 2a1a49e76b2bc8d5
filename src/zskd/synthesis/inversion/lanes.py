"""Lanes: the slots of a batch, each of which optimises one image at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zskd.config.synthesis import SynthesisConfig
from zskd.core.device import to_device
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

    def only(self, numbers: Sequence[int]) -> InversionBatch:
        """Return the batch of some of the images."""
        rows = list(numbers)
        warps = None if self.warps is None else self.warps[rows]
        return InversionBatch(self.starts[rows], self.targets[rows], warps)

    def to(self, device: torch.device) -> InversionBatch:
        """Return the batch on a device."""
        warps = None if self.warps is None else to_device(self.warps, device)
        return InversionBatch(to_device(self.starts, device), to_device(self.targets, device), warps)


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
class _Ended:
    """What lanes held at the step that ended their image, since the last look at which images are finished.

    Until the next look the lane goes on, but what becomes of its image is of no use.
    """

    lanes: Tensor
    """Which lanes (lanes,), bool."""
    kl: PerSample
    steps: Tensor
    images: Images

    def keep(self, now: _Ended) -> None:
        """Add what lanes hold whose images end now and did not before; nothing is read from the device."""
        new = now.lanes & ~self.lanes
        self.lanes = self.lanes | now.lanes
        self.kl, self.steps = torch.where(new, now.kl, self.kl), torch.where(new, now.steps, self.steps)
        self.images = torch.where(new.view(-1, 1, 1, 1), now.images, self.images)


@dataclass
class Lanes:
    """The images in optimisation and the results of finished ones."""

    batch: InversionBatch
    config: SynthesisConfig
    look_every: int = 1
    """Steps between two looks at which images are finished, at most: a look reads from the device, and lanes
    whose images have ended wait for it. Images do not depend on it."""
    images: Images = field(init=False)
    adam: LaneAdam = field(init=False)
    finished: int = 0
    _ended: _Ended | None = field(init=False)

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
        self._step, self._ended = 0, None

    def _rows(self) -> Tensor:
        return self.numbers.clamp(max=len(self.batch) - 1)

    @property
    def active(self) -> Tensor:
        """Which lanes hold an image (lanes,), bool."""
        return self.numbers < len(self.batch)

    @property
    def holding(self) -> int:
        """How many lanes hold an image."""
        return self._next - self.finished

    @property
    def targets(self) -> SoftLabels:
        """The target of each lane's image (lanes, K)."""
        return self.batch.targets[self._rows()]

    @property
    def warps(self) -> Tensor | None:
        """Six random numbers for the next step of each lane (lanes, 6)."""
        if self.batch.warps is None:
            return None
        # an image that has ended may wait for the next look
        return self.batch.warps[self._rows(), self.steps.long().clamp(max=self.config.steps - 1)]

    def advance(self, kl: PerSample, box: tuple[float, float]) -> int:
        """Count a step; at a look, store finished images and refill their lanes.

        Args:
            kl: KL(y ‖ softmax(T(A(x))/τ)) before the step (lanes,), in nats.
            box: least and largest pixel value, which results are clamped to.

        Returns:
            The number of finished images; 0 at a step without a look.

        Raises:
            ZskdError: the loss of an image is not finite.
        """
        self.steps += 1
        unmet = kl >= (self.config.tolerance or -torch.inf)  # false for NaN, which ends the image too
        now = _Ended(~unmet | (self.steps >= self.config.steps), kl, self.steps, self.images)
        found = self._look(now)
        return 0 if found is None else self._store(found, box)

    def _look(self, now: _Ended) -> _Ended | None:
        """Return what has ended since the last look, with this step; None at a step without a look.

        Without a tolerance, all lanes begin and end their images together, and it is looked when they do.
        """
        if self.look_every == 1:
            return now
        found = self._ended or _Ended(torch.zeros_like(now.lanes), now.kl, now.steps, now.images)
        found.keep(now)
        self._step += 1
        looks = self._step % self.look_every == 0 or self._step % self.config.steps == 0
        self._ended = None if looks else found
        return found if looks else None

    def _store(self, found: _Ended, box: tuple[float, float]) -> int:
        """Store images that have ended, refill their lanes, and return how many there are."""
        facts = (found.lanes, self.numbers, torch.isfinite(found.kl), found.steps)
        ended, all_numbers, finite, steps = torch.stack([one.long() for one in facts]).cpu()
        finished = ended.nonzero()[:, 0]
        if not len(finished):
            return 0
        numbers = all_numbers[finished]
        with_image = numbers < len(self.batch)
        diverged = finished[with_image & (finite[finished] == 0)]
        if len(diverged):
            raise ZskdError(
                f"synthesis: the loss is not finite at step {int(steps[diverged[0]])} of an image: "
                "lower --synthesis.learning-rate, or raise --synthesis.tau"
            )
        lanes, rows = (to_device(one, self.images.device) for one in (finished, numbers))
        self.results[rows] = found.images[lanes].clamp(*box)
        self.steps_taken[rows] = found.steps[lanes]
        done = int(with_image.sum())
        self.finished += done
        self._refill(lanes)
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
