"""Random changes of brightness, contrast, saturation and hue, with factors of its own for each image.

The formulas are those of torchvision's `adjust_brightness`, `adjust_contrast`, `adjust_saturation` and
`adjust_hue`, for any pixel box, and with one factor per image instead of one per call. They are applied in
this order; torchvision's `ColorJitter` draws the order, too.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from zskd.config.transforms import AugmentConfig
from zskd.core.device import to_device
from zskd.core.types import Images

_GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a grey value, as in torchvision."""


def jitter(images: Images, config: AugmentConfig, box: tuple[float, float], generator: Generator) -> Images:
    """Return images (N, C, H, W) with other colours, inside the box.

    Saturation and hue need three channels; images with another number keep theirs.

    Args:
        images: pixels in the box.
        config: the largest changes.
        box: least and largest pixel value.
        generator: on the CPU.
    """
    low, high = box
    drawn = to_device(2 * torch.rand(len(images), 4, generator=generator) - 1, images.device)
    bright, contrast, saturation, hue = drawn.unbind(1)
    made = (images - low) / (high - low) if box != (0.0, 1.0) else images
    if config.brightness:
        made = brighten(made, 1 + config.brightness * bright)
    if config.contrast:
        made = change_contrast(made, 1 + config.contrast * contrast)
    if images.shape[1] == len(_GREY):
        if config.saturation:
            made = saturate(made, 1 + config.saturation * saturation)
        if config.hue:
            made = turn_hue(made, config.hue * hue)
    return (low + (high - low) * made).clamp(*box) if box != (0.0, 1.0) else made


def brighten(images: Images, factor: Tensor) -> Images:
    """Multiply images (N, C, H, W) in [0, 1] by a factor (N,) of at least 0 each."""
    return (images * _each(factor)).clamp_(0, 1)


def change_contrast(images: Images, factor: Tensor) -> Images:
    """Multiply the distance of images (N, C, H, W) in [0, 1] from their mean grey value by a factor (N,)."""
    return torch.lerp(_grey(images).mean((1, 2, 3), keepdim=True), images, _each(factor)).clamp_(0, 1)


def saturate(images: Images, factor: Tensor) -> Images:
    """Multiply the distance of images (N, 3, H, W) in [0, 1] from grey, pixel by pixel, by a factor (N,)."""
    return torch.lerp(_grey(images), images, _each(factor)).clamp_(0, 1)


def turn_hue(images: Images, turn: Tensor) -> Images:
    """Turn the hue of images (N, 3, H, W) in [0, 1].

    The largest and the least value of a pixel stay the same.

    Args:
        images: red, green and blue.
        turn: of each image (N,), in whole turns of the colour circle.
    """
    red, green, blue = images.unbind(1)
    most, least = images.amax(1), images.amin(1)
    chroma = most - least
    span = chroma.clamp_min(torch.finfo(images.dtype).tiny)
    # hue in sixths of a turn: 0 is red, 2 green, 4 blue
    sixth = torch.where(
        most == red,
        (green - blue) / span,
        torch.where(most == green, 2 + (blue - red) / span, 4 + (red - green) / span),
    )
    sixth = sixth + 6 * turn.view(-1, 1, 1)
    made = [most - chroma * (2 - ((sixth + offset) % 6 - 2).abs()).clamp(0, 1) for offset in (5.0, 3.0, 1.0)]
    return torch.stack(made, dim=1)


def _grey(images: Images) -> Tensor:
    """Grey values (N, 1, H, W): weighted where there are red, green and blue, otherwise the mean."""
    if images.shape[1] != len(_GREY):
        return images.mean(1, keepdim=True)
    weights = to_device(torch.tensor(_GREY, dtype=images.dtype), images.device).view(1, -1, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def _each(numbers: Tensor) -> Tensor:
    return numbers.view(-1, 1, 1, 1)
