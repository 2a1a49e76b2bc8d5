"""Augmentation of a batch, a new random change for each image, in a few tensor operations.

The caller passes a generator that depends on the training step, so that a resumed run augments its images in
the same way.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from zskd.config.transforms import AugmentConfig, WarpConfig
from zskd.core.device import to_device
from zskd.core.types import Images
from zskd.data.colour import jitter
from zskd.data.crops import crop, cut_out
from zskd.data.jpeg import save_as_jpeg


def augment(images: Images, config: AugmentConfig, box: tuple[float, float], generator: Generator) -> Images:
    """Return augmented copies of a batch.

    The changes follow each other: crops and vertical flips, affine maps with horizontal flips, colours,
    cut-outs, noise, JPEG files, MixUp and CutMix. A change that the settings do not use draws no random
    numbers.

    Args:
        images: batch (N, C, H, W) in [0, 1], on any device.
        config: the changes, their strength, and their share of the images.
        box: least and largest pixel value; the result stays inside.
        generator: on the CPU; the only source of randomness.
    """
    changed = images
    if config.crops:
        changed = crop(changed, config, generator)
    if config.moves and config.share:
        outside = box[0] if config.outside == "least" else None
        changed = _warp(changed, config, outside, generator)
    if config.colours:
        changed = jitter(changed, config, box, generator)
    if config.cutout:
        changed = cut_out(changed, config, box, generator)
    if config.salt_pepper or config.gaussian:
        changed = _noise(changed, config, box, generator)
    if config.jpeg:
        changed = save_as_jpeg(changed, config, box, generator)
    if config.mixup or config.cutmix:
        changed = _mix(changed, config, generator)
    return changed


def affine_matrices(uniform: Tensor, config: WarpConfig, height: int, width: int) -> Tensor:
    """Return one matrix per image (N, 2, 3), from output to input coordinates in [-1, 1].

    Args:
        uniform: six numbers of U(0, 1) per image (N, 6).
        config: the limits of the maps.
        height: of the images: a rotation of one that is not square is none in these coordinates.
        width: of the images.
    """
    angle, shift_x, shift_y, shear = (2 * uniform[:, :4] - 1).unbind(1)
    angle = angle * math.radians(config.rotation)
    low, high = math.log(config.scale[0]), math.log(config.scale[1])
    size = torch.exp(low + (high - low) * uniform[:, 4])
    mirrored = torch.where(uniform[:, 5] < config.flip, -1.0, 1.0)
    shear = shear * config.shear
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    # a shift of the whole side is 2 in these coordinates
    rows = (
        torch.stack([mirrored * cos, (shear * cos - sin) * (height / width), 2 * config.shift * shift_x], 1),
        torch.stack([mirrored * sin * (width / height), shear * sin + cos, 2 * config.shift * shift_y], 1),
    )
    return torch.stack(rows, dim=1)


def warp(images: Images, matrices: Tensor, outside: float | None) -> Images:
    """Resample images (N, C, H, W) bilinearly with one matrix (N, 2, 3) each; differentiable in the images.

    Pixels from outside the image get the value `outside`, or with None those of its reflection.
    """
    moved = F.grid_sample(
        images - outside if outside else images,
        _grid(matrices, *images.shape[2:]),
        mode="bilinear",
        padding_mode="reflection" if outside is None else "zeros",
        align_corners=False,
    )
    return moved + outside if outside else moved


def _grid(matrices: Tensor, height: int, width: int) -> Tensor:
    """Faster `F.affine_grid` for pixel centres: (N, 2, 3) → (N, H, W, 2), one plane for each coordinate.

    Planes are added by whole vectors, and read so by `F.grid_sample`; pairs of numbers are not.
    """
    along_x, along_y, shift = (column[:, :, None, None] for column in matrices.unbind(2))
    x = ((torch.arange(width, device=matrices.device) + 0.5) * (2 / width) - 1).view(1, 1, 1, width)
    y = ((torch.arange(height, device=matrices.device) + 0.5) * (2 / height) - 1).view(1, 1, height, 1)
    return (x * along_x + (y * along_y + shift)).permute(0, 2, 3, 1)


def _warp(images: Images, config: AugmentConfig, outside: float | None, generator: Generator) -> Images:
    uniform = torch.rand(len(images), 6, generator=generator)
    matrices = affine_matrices(uniform, config, *images.shape[2:])
    moved = torch.rand(len(images), 1, 1, generator=generator) < config.share
    matrices = torch.where(moved, matrices, torch.eye(2, 3))
    return warp(images, to_device(matrices, images.device), outside)


def _noise(images: Images, config: AugmentConfig, box: tuple[float, float], generator: Generator) -> Images:
    touched = (torch.rand(len(images), 1, 1, 1, generator=generator) < config.share).float()
    added = config.gaussian * torch.randn(images.shape, generator=generator) * touched
    noisy = images + to_device(added, images.device)
    draw = torch.rand(images.shape, generator=generator) / touched.clamp_min(1e-9)
    draw = to_device(draw, images.device)
    noisy = torch.where(draw < config.salt_pepper, box[1], noisy)
    noisy = torch.where(draw < config.salt_pepper / 2, box[0], noisy)
    return noisy.clamp(*box)


def _mix(images: Images, config: AugmentConfig, generator: Generator) -> Images:
    """MixUp (Zhang et al. 2018) for some images and CutMix (Yun et al. 2019) for others.

    Labels are not mixed: the teacher computes the logits of the mixture.
    """
    count, _, height, width = images.shape
    partner = images[to_device(torch.randperm(count, generator=generator), images.device)]
    kind = torch.rand(count, generator=generator)
    weight = torch.rand(count, generator=generator)
    blend = torch.where(kind < config.mixup, weight, 1.0).view(-1, 1, 1, 1)
    cut = (kind >= config.mixup) & (kind < config.mixup + config.cutmix)
    inside_y = _stripe(height, weight, generator)
    inside_x = _stripe(width, weight, generator)
    rectangle = (inside_y[:, :, None] & inside_x[:, None, :] & cut[:, None, None]).unsqueeze(1)
    rectangle, blend = (to_device(which, images.device) for which in (rectangle, blend))
    return torch.where(rectangle, partner, torch.lerp(partner, images, blend))


def _stripe(side: int, weight: Tensor, generator: Generator) -> Tensor:
    """One random interval per image (N, side); two of them cover at most 1 − weight of the image."""
    half = side * (1 - weight).sqrt() / 2
    centre = side * torch.rand(len(weight), generator=generator)
    return (torch.arange(side) + 0.5 - centre[:, None]).abs() < half[:, None]
