"""The random numbers of a data impression: its start image, and the random maps of each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.core.rng import numpy_stream
from zskd.core.types import Images
from zskd.data.drawn import Box, Shape, Streams, draw_start_images
from zskd.synthesis.pictures.streams import coordinates, numbers, stretched

_GRIDS = (2, 4, 8, 16, 32)
"""Side lengths of the random grids that smooth noise is a sum of."""
_CONTRAST = (0.1, 1.0)
"""Least and largest standard deviation of smooth noise before it is clamped to the box."""
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


def draw_initial(
    kind: str,
    indices: Sequence[int],
    *,
    seed: int,
    shape: tuple[int, int, int],
    box: tuple[float, float],
    candidate: int = 0,
) -> Images:
    """Return one start image per index (N, C, H, W) float32, each from the index's own random stream.

    Args:
        kind: a name of `START_IMAGES`, or the user's own code.
        indices: of the images.
        seed: of the set.
        shape: channels, height and width.
        box: least and largest pixel value.
        candidate: which of the start images that an index has.

    Raises:
        ZskdError: unknown kind, or code that returns another shape or type.
    """
    purpose = f"start {candidate}" if candidate else "start"
    streams = [numpy_stream(seed, purpose, index) for index in indices]
    return draw_start_images(kind, streams, shape, box, option="--synthesis.start")


def gaussian(streams: Streams, shape: Shape, box: Box) -> Images:
    """White noise of N(0, 1), whatever the box."""
    return torch.from_numpy(np.stack([s.standard_normal(shape, dtype=np.float32) for s in streams]))


def uniform(streams: Streams, shape: Shape, box: Box) -> Images:
    """White noise of U(0, 1), stretched to the box."""
    return stretched(torch.from_numpy(np.stack([s.random(shape, dtype=np.float32) for s in streams])), box)


def smooth(streams: Streams, shape: Shape, box: Box) -> Images:
    """Random grids of several sizes, enlarged and added with random weights, brightness and contrast.

    The numbers are drawn per image, the arithmetic is done for all at once.
    """
    noise, deviation = _field(streams, shape, _GRIDS, power=2)
    contrast, brightness = numbers(streams, 2)
    contrast = _CONTRAST[0] + (_CONTRAST[1] - _CONTRAST[0]) * contrast
    return stretched((brightness + contrast * noise / deviation).clamp_(0, 1), box)


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
        outline, deviation = _field(streams, (1, height, width), _OUTLINES, power=1)
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
        texture, deviation = _field(streams, shape, _GRIDS, power=2)
        texture = texture / deviation * (_TEXTURE * strong.square())
        images = torch.lerp(images, (colour + texture).clamp(0, 1), mask)
    return stretched(images.clamp(0, 1), box)


def _field(streams: Streams, shape: Shape, grids: tuple[int, ...], *, power: int) -> tuple[Images, Tensor]:
    """Random grids of several sizes, enlarged and added with weights U(0, 1)^power.

    Returns:
        Fields of mean 0 (N, C, H, W), and the standard deviation of each (N, 1, 1, 1).
    """
    channels, height, width = shape
    drawn = [
        np.stack([s.standard_normal((channels, g, g), dtype=np.float32) for s in streams]) for g in grids
    ]
    noise = torch.zeros(len(streams), *shape)
    for grid, weight in zip(drawn, numbers(streams, len(grids)), strict=True):
        enlarged = F.interpolate(
            torch.from_numpy(grid), size=(height, width), mode="bilinear", align_corners=False
        )
        noise += weight**power * enlarged
    single = shape == (1, 1, 1)  # whose unbiased deviation is 0/0
    mean = noise.mean((1, 2, 3), keepdim=True)
    deviation = noise.std((1, 2, 3), keepdim=True, correction=0 if single else 1)
    return noise - mean, deviation.clamp_min(1e-6)


def draw_warps(indices: Sequence[int], steps: int, *, seed: int) -> Tensor:
    """Return six numbers of U(0, 1) for the random map of every step of each index (N, steps, 6)."""
    streams = (numpy_stream(seed, "warp", index) for index in indices)
    return torch.from_numpy(np.stack([stream.random((steps, 6), dtype=np.float32) for stream in streams]))
