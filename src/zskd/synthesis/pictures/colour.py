"""Colours and light of procedural pictures. Pixels here are from 0 to 1, whatever the teacher's box."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zskd.core.types import Images
from zskd.data.drawn import Shape, Streams
from zskd.synthesis.pictures.streams import coordinates, direction, numbers

_CONTRAST = (0.05, 0.3)
"""Least and largest deviation of a painted field."""
_LIT, _SPOT = 0.6, 0.2
"""Probabilities that a picture is lighter on one side, and that it has a spot of light or shadow."""


def tints(streams: Streams, channels: int, count: int) -> list[Tensor]:
    """Draw colours, each (N, C, 1, 1).

    As in natural pictures, channels are correlated: a brightness of U(0, 1), from which each channel departs
    by a saturation that is small more often than large.
    """
    drawn = torch.cat(numbers(streams, count * (channels + 2)), 1).view(len(streams), count, -1, 1, 1)
    found = []
    for one in drawn.unbind(1):
        brightness, saturation, hue = one[:, :1], one[:, 1:2], one[:, 2:]
        if channels == 1:
            found.append(brightness)
        else:
            departure = (hue - hue.mean(1, keepdim=True)) * (1.4 * saturation.square())
            found.append((brightness + departure).clamp(0, 1))
    return found


def palette(streams: Streams, field: Tensor, channels: int) -> Images:
    """Return a field (N, 1, H, W), from 0 to 1, in three colours that pass into each other (N, C, H, W)."""
    first, second, third = tints(streams, channels, 3)
    lower = torch.lerp(first, second, (2 * field).clamp_max(1))
    return torch.lerp(lower, third, (2 * field - 1).clamp_min(0))


def painted(streams: Streams, fields: Tensor) -> Images:
    """Return fields of deviation 1 (N, C, H, W) as colours around one tint (N, C, H, W), not clamped.

    The first field is the brightness, to which channels respond differently; all fields together are the
    colour, whose share is small more often than large.
    """
    channels = fields.shape[1]
    (tint, response), (contrast, share) = tints(streams, channels, 2), numbers(streams, 2)
    contrast = _CONTRAST[0] + (_CONTRAST[1] - _CONTRAST[0]) * contrast
    weights = contrast * (0.4 + 1.2 * response)
    if channels == 1:
        return torch.addcmul(tint, weights, fields)
    share = share.square()
    common = fields[:, :1] * (1 - share.square()).sqrt()
    return torch.addcmul(tint, weights, torch.addcmul(common, share, fields))


def lit(streams: Streams, images: Images, shape: Shape) -> Images:
    """Return images (N, C, H, W) in the light of one side, some of them with a spot of light or shadow."""
    across, down = coordinates(shape)
    side, strength, angle, spot, x, y, size, power = numbers(streams, 8)
    strength = torch.where(side < _LIT, 0.7 * strength, 0.0)
    cos, sin = direction(2 * math.pi * angle)
    light = 1 + strength * (across * cos + down * sin)
    distance = (across - 2 * x + 1).square() + (down - 2 * y + 1).square()
    power = torch.where(spot < _SPOT, 1.6 * power - 0.8, 0.0)
    light = light + power / (1 + distance * (2 + 30 * size))
    return (images * light).clamp_(0, 1)
