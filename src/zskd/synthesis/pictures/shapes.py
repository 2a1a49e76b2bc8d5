"""Random shapes: regions and lines with smooth outlines on a plain background."""

from __future__ import annotations

import torch

from zskd.core.types import Images
from zskd.data.drawn import Box, Shape, Streams
from zskd.synthesis.pictures.noise import GRIDS, field_of_grids
from zskd.synthesis.pictures.streams import coordinates, numbers, stretched

_LAYERS, _SECOND = 3, 0.5
"""Most shapes of an image, and the probability of each one after the first."""
_OUTLINES = (2, 4, 8)
"""Grids of the field whose positive part is a shape."""
_DARK, _LIGHT = 0.35, 0.35
"""Probabilities of a background at the lower end of the box, and at the upper one."""
_FRAMED, _LINES = 0.8, 0.25
"""Probabilities that a shape stays near the middle, and that only its outline is drawn."""
_TEXTURE = 0.3
"""Largest standard deviation of a shape's texture."""


def shapes(streams: Streams, shape: Shape, box: Box) -> Images:
    """Up to three regions and lines with smooth outlines, one over the other, on a plain background.

    Similar to the dead-leaves images of Baradad et al. 2021 (arXiv:2106.05963).
    """
    channels, height, width = shape
    (kind,) = numbers(streams, 1)
    plain = torch.stack(numbers(streams, channels), dim=1).view(-1, channels, 1, 1)
    ends = torch.where(kind < _DARK, 0.0, torch.where(kind < _DARK + _LIGHT, 1.0, plain))
    images = ends.expand(-1, channels, height, width)
    across, down = coordinates(shape)
    for layer in range(_LAYERS):
        outline, deviation = field_of_grids(streams, (1, height, width), _OUTLINES, power=1)
        present, level, framed, sharp, line, thick, strong, x, y, wide, high = numbers(streams, 11)
        # most shapes stay within an ellipse somewhere near the middle
        from_middle = ((across - 0.4 * (x - 0.5)) / (0.45 + 0.75 * wide)).square()
        from_middle = from_middle + ((down - 0.4 * (y - 0.5)) / (0.45 + 0.75 * high)).square()
        pull = torch.where(framed < _FRAMED, 2.5, 0.0) * (from_middle - 0.6).clamp_min(-0.3)
        inside = outline / deviation - (1.6 * level - 0.8)
        inside = torch.where(line < _LINES, 0.1 + 0.4 * thick - inside.abs(), inside) - pull
        mask = torch.sigmoid(inside * (3 + 20 * sharp))
        mask = torch.where((present < _SECOND) | torch.tensor(layer == 0), mask, 0.0)
        colour = torch.stack(numbers(streams, channels), dim=1).view(-1, channels, 1, 1)
        texture, deviation = field_of_grids(streams, shape, GRIDS, power=2)
        texture = texture / deviation * (_TEXTURE * strong.square())
        images = torch.lerp(images, (colour + texture).clamp(0, 1), mask)
    return stretched(images.clamp(0, 1), box)
