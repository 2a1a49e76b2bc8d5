"""Random numbers of pictures: an image draws from its own stream, the arithmetic is done for all at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zskd.core.types import Images
from zskd.data.drawn import Box, Shape, Streams


def numbers(streams: Streams, count: int) -> tuple[Tensor, ...]:
    """Draw `count` numbers of U(0, 1) from each stream; return each as (N, 1, 1, 1)."""
    drawn = np.stack([stream.random(count, dtype=np.float32) for stream in streams])
    return torch.from_numpy(drawn).view(-1, count, 1, 1, 1).unbind(1)


def exp(values: Tensor) -> Tensor:
    """Return e^values.

    This and the next are NumPy's: torch rounds the last elements of an array otherwise than the others, so
    that an image would depend on its place in the batch.
    """
    return torch.as_tensor(np.exp(values.contiguous().numpy()))


def exp2(values: Tensor) -> Tensor:
    """Return 2^values."""
    return torch.as_tensor(np.exp2(values.contiguous().numpy()))


def log(values: Tensor) -> Tensor:
    """Return the natural logarithm."""
    return torch.as_tensor(np.log(values.contiguous().numpy()))


def direction(angle: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of an angle in radians."""
    values = angle.contiguous().numpy()
    return torch.as_tensor(np.cos(values)), torch.as_tensor(np.sin(values))


def coordinates(shape: Shape) -> tuple[Tensor, Tensor]:
    """Return where pixels lie: across (1, 1, 1, W) and down (1, 1, H, 1), from −1 to 1."""
    _, height, width = shape
    across, down = torch.linspace(-1, 1, width), torch.linspace(-1, 1, height)
    return across.view(1, 1, 1, width), down.view(1, 1, height, 1)


def turned(shape: Shape, x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Return where pixels lie along two axes of each image's own (N, 1, H, W).

    Args:
        shape: C, H, W.
        x: centre of the axes, across (N, 1, 1, 1).
        y: down.
        angle: of the first axis in radians.
    """
    (across, down), (cos, sin) = coordinates(shape), direction(angle)
    across, down = across - x, down - y
    return across * cos + down * sin, down * cos - across * sin


def stretched(images: Images, box: Box) -> Images:
    """Return images with pixels from 0 to 1 in the box."""
    low, high = box
    return images * (high - low) + low
