"""The optimisation of images towards their targets.

So many images are worked on at a time as there are lanes. A lane whose image is finished takes the next
one, so that every step works on a full batch until the images run out. At one batch size and one thread
an image's bits depend on nothing but itself: not on its lane, its neighbours, or when its turn comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.augment import affine_matrices, warp
from zskd.classifier import Classifier
from zskd.config import Synthesis
from zskd.errors import ZskdError
from zskd.inversion.adam import LaneAdam
from zskd.types import Images, PerSample, SoftLabels


@dataclass(frozen=True)
class Work:
    """Images to optimise, in the order in which they take a lane."""

    starts: Images
    """First images (N, C, H, W)."""
    targets: SoftLabels
    """One row per image (N, K)."""
    warps: Tensor | None = None
    """Six numbers of U(0, 1) per image and step (N, steps, 6), where `Synthesis.warp` moves images."""

    def __len__(self) -> int:
        return len(self.starts)

    def to(self, device: torch.device) -> Work:
        """Return it on a device."""
        warps = None if self.warps is None else self.warps.to(device)
        return Work(self.starts.to(device), self.targets.to(device), warps)


@dataclass(frozen=True)
class Moment:
    """The lanes before one step."""

    numbers: Tensor
    """Which image each lane works on (lanes,); beyond the last one for a lane without any."""
    steps: Tensor
    """Steps that each of these images has taken (lanes,)."""
    images: Images
    """The images (lanes, C, H, W); not to be changed."""


def invert(
    teacher: Classifier,
    work: Work,
    config: Synthesis,
    *,
    on_step: Callable[[Moment], None] | None = None,
    tell: Callable[[int], None] | None = None,
) -> tuple[Images, Tensor]:
    """Optimise images until the teacher answers with their targets, or their steps are used up.

    x* = argmin_x CE(y, softmax(T(A(x))/τ)) + l2/2·|x|²

    ZSKD's equation 5 has neither the penalty, which is the reproduction's, nor the random maps A, which are
    those of Athalye et al. 2018. The losses of a batch are added, not averaged: the gradient of an image is
    then its own, whatever its neighbours are. An image is finished by the step at which
    KL(y ‖ softmax(T(A(x))/τ)) is found below the tolerance.

    Args:
        teacher: frozen, in evaluation mode.
        work: images, targets and maps.
        config: steps, tolerance, learning rate, temperature, lanes, and what happens to pixels that leave
            the box.
        on_step: called before every step.
        tell: called with the number of images that a step has finished.

    Returns:
        Images inside the teacher's input box, and the steps that each has taken (N,), int32.

    Raises:
        ZskdError: the loss is no longer finite; step and settings to look at are named.
    """
    lanes = _Lanes(work.to(teacher.device), config)
    box = teacher.spec.box
    keep_inside = _PIXELS[config.pixels]
    while lanes.finished < len(work):
        if on_step is not None:
            on_step(Moment(lanes.numbers, lanes.steps, lanes.images))
        kl, gradient = _ask(teacher, lanes, config)
        lanes.adam.update(lanes.images, gradient, config.learning_rate)
        keep_inside(lanes.images, box)
        finished = lanes.move_on(kl, box)
        if finished and tell is not None:
            tell(finished)
    return lanes.results[: len(work)].cpu(), lanes.taken[: len(work)].cpu()


@dataclass
class _Lanes:
    """What is being worked on, and what is done."""

    work: Work
    config: Synthesis
    images: Images = field(init=False)
    adam: LaneAdam = field(init=False)
    finished: int = 0

    def __post_init__(self) -> None:
        """Give every lane its first image; a lane too many idles along with a copy."""
        count, device = len(self.work), self.work.starts.device
        self.numbers = torch.arange(self.config.batch_size, device=device).clamp(max=count)
        self._next = min(self.config.batch_size, count)
        self.images = self.work.starts[self._rows()].clone()
        self.adam = LaneAdam.fresh(self.images)
        self.steps = torch.zeros(self.config.batch_size, dtype=torch.int32, device=device)
        # the last row is for lanes without an image
        self.results = self.work.starts.new_empty(count + 1, *self.work.starts.shape[1:])
        self.taken = torch.zeros(count + 1, dtype=torch.int32, device=device)

    def _rows(self) -> Tensor:
        return self.numbers.clamp(max=len(self.work) - 1)

    @property
    def targets(self) -> SoftLabels:
        """What each lane's image is to be answered with."""
        return self.work.targets[self._rows()]

    @property
    def warps(self) -> Tensor | None:
        """Six random numbers for the next step of each lane (lanes, 6)."""
        if self.work.warps is None:
            return None
        return self.work.warps[self._rows(), self.steps.long()]

    def move_on(self, kl: PerSample, box: tuple[float, float]) -> int:
        """Count a step; store what is finished and give its lane away. Return how many were finished."""
        self.steps += 1
        going = kl >= (self.config.tolerance or -torch.inf)  # false for NaN, which ends the image as well
        over = (~going | (self.steps >= self.config.steps)).nonzero()[:, 0]
        if not len(over):
            return 0
        numbers = self.numbers[over]
        working = numbers < len(self.work)
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
        count = len(self.work)
        fresh = torch.arange(self._next, self._next + len(over), device=over.device).clamp(max=count)
        self._next = min(self._next + len(over), count)
        self.numbers[over] = fresh
        self.steps[over] = 0
        if not self.config.carry_images:
            self.images[over] = self.work.starts[fresh.clamp(max=count - 1)]
        if not self.config.carry_moments:
            self.adam.reset(over)


def _ask(teacher: Classifier, lanes: _Lanes, config: Synthesis) -> tuple[PerSample, Images]:
    """Return KL(y ‖ answer) of every lane, and the gradient of its loss with respect to its image."""
    targets, uniform = lanes.targets, lanes.warps
    leaf = lanes.images.detach().requires_grad_(True)
    with torch.enable_grad():
        shown = leaf
        if uniform is not None:
            shown = warp(leaf, affine_matrices(uniform, config.warp), teacher.spec.box[0])
        loss = -(targets * F.log_softmax(teacher(shown) / config.tau, dim=1)).sum(1)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    if config.l2:
        gradient = gradient + config.l2 * lanes.images
    return loss.detach() - torch.special.entr(targets).sum(1), gradient


def _project(images: Images, box: tuple[float, float]) -> None:
    images.clamp_(*box)


def _leave(images: Images, box: tuple[float, float]) -> None:
    pass


def _stretch(images: Images, box: tuple[float, float]) -> None:
    """The authors' release: the smallest pixel of the whole batch becomes 0, the largest 1."""
    low, high = images.min(), images.max()
    images.sub_(low).div_((high - low).clamp_min(1e-12)).mul_(box[1] - box[0]).add_(box[0])


_PIXELS: dict[str, Callable[[Images, tuple[float, float]], None]] = {
    "project": _project,
    "free": _leave,
    "minmax": _stretch,
}
