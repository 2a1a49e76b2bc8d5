"""Drawing start images by their name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from zskd.config.registry import START_IMAGES
from zskd.core.code import is_code
from zskd.core.errors import ZskdError
from zskd.core.types import Images

_ROUNDING = 1e-4
"""Beyond the box, which float32 may round a pixel to."""
Streams = list[np.random.Generator]
"""One stream of random numbers per image."""
Shape = tuple[int, int, int]
"""Channels, height and width."""
Box = tuple[float, float]
"""Least and largest pixel value."""
StartImage = Callable[[Streams, Shape, Box], Images]
"""(streams, shape, box) → start images (N, C, H, W), float32. An image may only draw from its own stream."""


def draw_start_images(kind: str, streams: Streams, shape: Shape, box: Box, *, option: str) -> Images:
    """Return one start image per stream (N, C, H, W) float32.

    Args:
        kind: a name of `START_IMAGES`, or the user's own code.
        streams: of the images.
        shape: channels, height and width.
        box: least and largest pixel value.
        option: that names the kind, for messages.

    Raises:
        ZskdError: unknown kind, or code that returns another shape, type or range.
    """
    draw: StartImage = START_IMAGES.load(kind)
    drawn = draw(streams, shape, box)
    if not isinstance(drawn, Tensor) or drawn.shape != (len(streams), *shape) or drawn.dtype != torch.float32:
        what = f"{drawn.dtype} {tuple(drawn.shape)}" if isinstance(drawn, Tensor) else type(drawn).__name__
        raise ZskdError(
            f"{option} {kind} returned {what}: it must return float32 images of {(len(streams), *shape)}"
        )
    low, high = box
    if not is_code(kind):
        return drawn
    if not bool(((drawn >= low - _ROUNDING) & (drawn <= high + _ROUNDING)).all()):
        raise ZskdError(
            f"{option} {kind} returned pixels from {float(drawn.min()):g} to {float(drawn.max()):g}: they "
            f"must be in the box, from {low:g} to {high:g}"
        )
    return drawn.clamp(low, high)
