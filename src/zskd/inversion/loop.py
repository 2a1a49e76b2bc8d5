"""The optimisation of a batch of images towards their targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.augment import affine_matrices, warp
from zskd.classifier import Classifier
from zskd.config import Synthesis
from zskd.errors import ZskdError
from zskd.inversion.adam import LaneAdam
from zskd.types import Images, SoftLabels


@dataclass
class Chain:
    """What a batch hands on to the next one of its shard, where the settings ask for it."""

    images: Images | None = None
    adam: LaneAdam | None = None


def invert(
    teacher: Classifier,
    starts: Images,
    targets: SoftLabels,
    config: Synthesis,
    *,
    warps: Tensor | None = None,
    chain: Chain | None = None,
    on_step: Callable[[int, Images], None] | None = None,
) -> Images:
    """Optimise images until the teacher answers with their targets.

    x* = argmin_x CE(y, softmax(T(A(x))/τ)) + l2/2·|x|²

    ZSKD's equation 5 has neither the penalty, which is the reproduction's, nor the random maps A, which
    are those of Athalye et al. 2018. The losses of a batch are added, not averaged: the gradient of an
    image is then its own, whatever its neighbours are.

    Args:
        teacher: frozen, in evaluation mode.
        starts: first images (N, C, H, W); not changed.
        targets: one row per image (N, K).
        config: steps, learning rate, temperature and what happens to pixels that leave the box.
        warps: six numbers of U(0, 1) per image and step (N, steps, 6), when `config.warp` moves images.
        chain: state of the shard's previous batch; updated when the settings carry something on.
        on_step: called with the number of steps done, from 0, and the images; it must not change them.

    Returns:
        Images inside the teacher's input box.

    Raises:
        ZskdError: the loss is no longer finite; step and settings to look at are named.
    """
    chain = chain or Chain()
    images = starts.clone()
    if config.carry_images and chain.images is not None:
        images = chain.images.clone()
    adam = LaneAdam.fresh(images)
    if config.carry_moments and chain.adam is not None:
        adam = chain.adam
    keep_inside = _PIXELS[config.pixels]
    for step in range(config.steps):
        if on_step is not None:
            on_step(step, images)
        seen = None if warps is None else affine_matrices(warps[:, step], config.warp)
        loss, gradient = _loss_and_gradient(teacher, images, targets, seen, config)
        if not bool(torch.isfinite(loss)):
            raise ZskdError(
                f"synthesis: the loss is not finite at step {step + 1} of {config.steps}: lower "
                "--synthesis.learning-rate, or raise --synthesis.tau"
            )
        adam.update(images, gradient, config.learning_rate)
        keep_inside(images, teacher.spec.box)
    chain.images, chain.adam = images, adam
    stored = images.clamp(*teacher.spec.box)
    if on_step is not None:
        on_step(config.steps, stored)
    return stored


def _loss_and_gradient(
    teacher: Classifier, images: Images, targets: SoftLabels, seen: Tensor | None, config: Synthesis
) -> tuple[Tensor, Images]:
    leaf = images.detach().requires_grad_(True)
    with torch.enable_grad():
        shown = leaf if seen is None else warp(leaf, seen, teacher.spec.box[0])
        loss = F.cross_entropy(teacher(shown) / config.tau, targets, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
    if config.l2:
        gradient = gradient + config.l2 * images
    return loss, gradient


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
