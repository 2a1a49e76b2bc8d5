"""How pixels are stored: as they are, in half precision, or in 8 bits. Readers receive float32 in [0, 1]."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zskd.core.errors import ZskdError
from zskd.core.memory import is_large
from zskd.core.types import Images

Storage = Literal["float32", "float16", "uint8"]
_DTYPES: dict[Storage, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "uint8": torch.uint8,
}
DTYPES = frozenset(_DTYPES.values())
"""Types that stored images can have."""


def usual_storage(shape: tuple[int, int, int]) -> Storage:
    """Return how images of a shape (C, H, W) are stored where nobody says it."""
    return "uint8" if is_large(shape) else "float32"


def bytes_per_pixel(storage: Storage) -> int:
    """Return the bytes of one stored value."""
    return _DTYPES[storage].itemsize


def encode(images: Images, storage: Storage) -> Tensor:
    """Return images (N, C, H, W) in [0, 1] as they are stored; for uint8, in 0–255."""
    if storage == "uint8":
        return (images * 255).round().to(torch.uint8)
    return images.to(_DTYPES[storage])


def decode(stored: Tensor) -> Images:
    """Return stored images (N, C, H, W) as float32 in [0, 1]; those in float32 are not copied."""
    return stored.float() / 255 if stored.dtype == torch.uint8 else stored.float()


def round_to(images: Images, storage: Storage, box: tuple[float, float]) -> Images:
    """Return images rounded to values that can be stored exactly, inside the input box.

    Args:
        images: (N, C, H, W) inside the box.
        storage: how they will be stored.
        box: least and largest pixel value, inside [0, 1].

    Returns:
        New images; the given ones for float32.

    Raises:
        ZskdError: no value that can be stored lies in the box.
    """
    if storage == "float32":
        return images
    low, high = _limits(storage, box)
    if low > high:
        raise ZskdError(
            f"no pixel value in the input box {box} can be stored as {storage}: give "
            "--synthesis.storage float32"
        )
    return decode(encode(images, storage)).clamp(low, high)


def _limits(storage: Storage, box: tuple[float, float]) -> tuple[float, float]:
    """Return the least and the largest value in the box that can be stored."""
    low, high = box
    if storage == "uint8":
        return math.ceil(low * 255) / 255, math.floor(high * 255) / 255
    least, largest = np.float16(low), np.float16(high)
    if float(least) < low:
        least = np.nextafter(least, np.float16(1))
    if float(largest) > high:
        largest = np.nextafter(largest, np.float16(0))
    return float(least), float(largest)
