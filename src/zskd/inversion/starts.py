"""The random numbers of an impression: the image it starts from and how it is shown to the teacher."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.streams import numpy_stream
from zskd.types import Images

_GRIDS = (2, 4, 8, 16, 32)
"""Side lengths of the random grids that smooth noise is a sum of."""
_CONTRAST = (0.1, 1.0)
"""Least and largest standard deviation of smooth noise before it is cut at the box."""


def draw_starts(
    kind: Literal["smooth", "uniform", "gaussian"],
    indices: list[int],
    *,
    seed: int,
    shape: tuple[int, int, int],
    box: tuple[float, float],
) -> Images:
    """Return one start per index (N, C, H, W), each from the index's own random stream.

    Args:
        kind: "uniform" or "gaussian" white noise, U(0, 1) stretched to the box or N(0, 1) as it is; or
            "smooth": random grids of several sizes, enlarged and added with random weights, then
            stretched to a random brightness and contrast inside the box.
        indices: which images.
        seed: run seed.
        shape: channels, height and width.
        box: least and largest pixel value.
    """
    streams = [numpy_stream(seed, "start", index) for index in indices]
    low, high = box
    if kind == "gaussian":
        return torch.from_numpy(np.stack([s.standard_normal(shape, dtype=np.float32) for s in streams]))
    if kind == "uniform":
        white = np.stack([s.random(shape, dtype=np.float32) for s in streams])
        return torch.from_numpy(white) * (high - low) + low
    return _smooth(streams, shape) * (high - low) + low


def _smooth(streams: list[np.random.Generator], shape: tuple[int, int, int]) -> Images:
    """Smooth noise in [0, 1]; the numbers are drawn per image, the arithmetic is done for all at once."""
    channels, height, width = shape
    grids = [
        np.stack([s.standard_normal((channels, g, g), dtype=np.float32) for s in streams]) for g in _GRIDS
    ]
    uniform = torch.from_numpy(np.stack([s.random(len(_GRIDS) + 2, dtype=np.float32) for s in streams]))
    noise = torch.zeros(len(streams), *shape)
    for i, grid in enumerate(grids):
        weight = uniform[:, i].square().view(-1, 1, 1, 1)
        enlarged = F.interpolate(
            torch.from_numpy(grid), size=(height, width), mode="bilinear", align_corners=False
        )
        noise += weight * enlarged
    mean, deviation = noise.mean((1, 2, 3), keepdim=True), noise.std((1, 2, 3), keepdim=True)
    contrast = _CONTRAST[0] + (_CONTRAST[1] - _CONTRAST[0]) * uniform[:, -2].view(-1, 1, 1, 1)
    brightness = uniform[:, -1].view(-1, 1, 1, 1)
    return (brightness + contrast * (noise - mean) / deviation.clamp_min(1e-6)).clamp_(0, 1)


def draw_warps(indices: list[int], steps: int, *, seed: int) -> Tensor:
    """Return the six numbers of U(0, 1) of every step of each index (N, steps, 6)."""
    streams = (numpy_stream(seed, "warp", index) for index in indices)
    return torch.from_numpy(np.stack([stream.random((steps, 6), dtype=np.float32) for stream in streams]))
