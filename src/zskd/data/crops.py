"""Crops, mirror images and cut-outs: changes that move or hide whole pixels and resample none."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from zskd.config.transforms import AugmentConfig
from zskd.core.device import to_device
from zskd.core.types import Images


def crop(images: Images, config: AugmentConfig, generator: Generator) -> Images:
    """Shift each image by whole pixels, up to `config.crop` of its side, and mirror some of them vertically.

    What comes in at an edge is the image's reflection there. So a shift is the crop of an image that was
    padded by reflection (He et al. 2016, arXiv:1512.03385, section 4.2, pad with zeros).

    Args:
        images: (N, C, H, W).
        config: the largest shift, and the probability of a mirror image.
        generator: on the CPU.
    """
    count, _, height, width = images.shape
    rows = _shifted(height, config.crop, count, generator)
    columns = _shifted(width, config.crop, count, generator)
    mirrored = torch.rand(count, 1, generator=generator) < config.flip_vertical
    rows = torch.where(mirrored, rows.flip(1), rows)
    return pick_pixels(images, to_device(rows, images.device), to_device(columns, images.device))


def pick_pixels(images: Images, rows: Tensor, columns: Tensor) -> Images:
    """Return images (N, C, h, w) made of the rows (N, h) and columns (N, w) of images (N, C, H, W)."""
    channels, width = images.shape[1], images.shape[3]
    tall = rows[:, None, :, None].expand(-1, channels, -1, width)
    wide = columns[:, None, None, :].expand(-1, channels, rows.shape[1], -1)
    return images.gather(2, tall).gather(3, wide)


def _shifted(side: int, share: float, count: int, generator: Generator) -> Tensor:
    """Return the pixels 0 … side − 1 (N, side) after a random shift of each row, reflected at both ends."""
    most = min(round(share * side), side - 1)
    shift = torch.randint(-most, most + 1, (count, 1), generator=generator)
    place = (torch.arange(side) + shift).abs()  # reflected at the first pixel
    return (side - 1) - ((side - 1) - place).abs()  # and at the last


def cut_out(images: Images, config: AugmentConfig, box: tuple[float, float], generator: Generator) -> Images:
    """Cover a square of some images with one random colour (DeVries and Taylor 2017, arXiv:1708.04552).

    Its centre is anywhere in the image, so that it may reach over the edge. They cover it with zeros.

    Args:
        images: (N, C, H, W).
        config: the share of the images, and the side of the square.
        box: least and largest pixel value.
        generator: on the CPU.
    """
    count, channels, height, width = images.shape
    covered = torch.rand(count, 1, generator=generator) < config.cutout
    down = _square(height, config.cutout_side, count, generator) & covered
    across = _square(width, config.cutout_side, count, generator)
    inside = (down[:, :, None] & across[:, None, :]).unsqueeze(1)
    colour = box[0] + (box[1] - box[0]) * torch.rand(count, channels, 1, 1, generator=generator)
    return torch.where(to_device(inside, images.device), to_device(colour, images.device), images)


def _square(side: int, share: float, count: int, generator: Generator) -> Tensor:
    """One random interval of `share` of the side per image (N, side)."""
    centre = side * torch.rand(count, 1, generator=generator)
    return (torch.arange(side) + 0.5 - centre).abs() < share * side / 2
