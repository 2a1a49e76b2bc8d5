"""Dead leaves: objects of many sizes, one over the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zskd.core.types import Images
from zskd.data.drawn import Box, Shape, Streams
from zskd.synthesis.pictures.colour import lit, painted, tints
from zskd.synthesis.pictures.noise import spectral
from zskd.synthesis.pictures.streams import exp2, numbers, stretched, turned

_LEAVES = 12
"""Most leaves of an image; from one leaf on, all numbers are equally frequent."""
_RADII = (0.15, 1.0)
"""Least and largest radius of a leaf, where half an image is 1."""
_RINGS = 0.12
"""Probability that a leaf is a line around its outline alone."""


def dead_leaves(streams: Streams, shape: Shape, box: Box) -> Images:
    """Leaves with outlines, textures and shading of their own over a cloudy background.

    After the dead leaves of Lee, Mumford and Huang 2001 and of Baradad et al. 2021 (arXiv:2106.05963), here
    with rectangles and lines beside discs, wavy outlines, a texture inside every leaf, and any number of
    leaves, so that some pictures are one object on a background.
    """
    slope, fine, angle, stretch, count = numbers(streams, 5)
    cloudy = spectral(streams, shape, slope=1 + 1.5 * slope)
    grain = spectral(
        streams,
        (1, *shape[1:]),
        slope=0.0,
        angle=math.pi * angle,
        stretch=exp2(3 * stretch.square()),
        peak=exp2(1.5 + 2 * fine),
        width=0.3,
    )
    images = painted(streams, cloudy).clamp_(0, 1)
    for leaf, tint in enumerate(tints(streams, shape[0], _LEAVES)):
        clouds, grains, shade = numbers(streams, 3)
        mask, along = _leaf(streams, shape, cloudy[:, :1])
        mask = torch.where(count * _LEAVES > leaf, mask, 0.0)
        inside = torch.addcmul((shade - 0.5) * along, 0.35 * grains**3, grain)
        images = torch.lerp(images, torch.addcmul(tint + inside, 0.25 * clouds**2, cloudy), mask)
    return stretched(lit(streams, images, shape), box)


def _leaf(streams: Streams, shape: Shape, waviness: Tensor) -> tuple[Tensor, Tensor]:
    """Return where a leaf of each image lies, 0 to 1, and the place along its first axis (N, 1, H, W).

    Its outline is max(|u|, |v|) + q·min(|u|, |v|) = 1 in its own axes u and v: a rectangle for q = 0, nearly
    a disc for q = 0.4, a diamond for q = 1. Radii have the density r^−2: there is detail of all sizes.
    """
    x, y, angle, radius, long, form, wavy, ring, soft = numbers(streams, 9)
    low, high = _RADII
    radius = 1 / (1 / low + radius * (1 / high - 1 / low))
    long = exp2(1.5 * long.square())
    along, beside = turned(shape, 2.2 * x - 1.1, 2.2 * y - 1.1, math.pi * angle)
    along, beside = along / (radius * long), beside * (long / radius)
    u, v = along.abs(), beside.abs()
    outline = torch.maximum(u, v) + form * torch.minimum(u, v) + 0.2 * wavy.square() * waviness
    inside = torch.where(ring < _RINGS, 0.25 - (outline - 0.75).abs(), 1 - outline)
    sharpness = radius * (max(shape[1:]) / (2 + 6 * soft.square().square()))
    return (inside * sharpness + 0.5).clamp(0, 1), along.clamp(-1, 1)
