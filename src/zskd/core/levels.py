"""Images in 8 bits: 255 steps from the least to the largest pixel value of a box."""

from __future__ import annotations

import torch
from torch import Tensor

from zskd.core.types import Images

LEVELS = 255


def to_levels(images: Images, box: tuple[float, float]) -> Tensor:
    """Return images as the nearest levels, uint8; what is outside of the box is moved to its edge.

    Args:
        images: (N, C, H, W).
        box: least and largest pixel value.
    """
    low, high = box
    return ((images - low) * (LEVELS / (high - low))).round().clamp(0, LEVELS).to(torch.uint8)


def from_levels(levels: Tensor, box: tuple[float, float], dtype: torch.dtype = torch.float32) -> Images:
    """Return the images of levels (N, C, H, W), inside the box up to rounding.

    Args:
        levels: uint8, from `to_levels`.
        box: as there.
        dtype: of the images.
    """
    low, high = box
    return low + levels.to(dtype) * ((high - low) / LEVELS)
