"""A tensor in a file: shape and number type at once, values only when they are asked for.

A checkpoint is often three times as large as its network (optimiser, averaged copy). What is not taken is
never read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zskd.core.errors import readable_errors

_MOST_DIMENSIONS = 64
"""Of a tensor of torch."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is not read yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    """Return the values on the CPU. Raises ValueError or OSError when the file is damaged."""
    obstacle: str | None = None
    """Why its values cannot be used, for the end of "NAME …" ("is quantised"); None: they can."""


@dataclass(frozen=True)
class Region:
    """Bytes of a file, or of a part of one in memory."""

    source: Path | bytes
    start: int
    size: int

    def read(self, first: int, count: int) -> bytearray:
        """Return `count` bytes from `first` on.

        Raises:
            ValueError: they are not all there.
            ZskdError: the file cannot be read.
        """
        if first < 0 or first + count > self.size:
            raise ValueError("a tensor is larger than its part of the file")
        if isinstance(self.source, bytes):
            found = bytearray(self.source[self.start + first : self.start + first + count])
        else:
            with readable_errors(self.source, "read"), self.source.open("rb") as stream:
                stream.seek(self.start + first)
                found = bytearray(stream.read(count))
        if len(found) != count:
            raise ValueError("its end is missing")
        return found


def check_layout(shape: Sequence[object], stride: Sequence[object], offset: object) -> None:
    """Check the numbers that describe a view of a storage.

    Raises:
        ValueError: they are no sizes.
    """
    numbers = [*shape, *stride, offset]
    whole = all(type(one) is int and 0 <= one < 2**63 for one in numbers)
    if not whole or len(shape) != len(stride) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError("a tensor has an impossible shape")


def extent(shape: Sequence[int], stride: Sequence[int]) -> int:
    """Return the number of values between the first and the last of a view, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))


def row_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a tensor without gaps, last dimension first in memory."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def read_view(
    region: Region, first: int, dtype: torch.dtype, shape: Sequence[int], stride: Sequence[int]
) -> Tensor:
    """Read a view.

    Args:
        region: where the storage lies.
        first: byte of the first value.
        dtype: number type.
        shape: of the view.
        stride: of the view, in values.

    Raises:
        ValueError: the file does not hold all values.
    """
    count = extent(shape, stride)
    if not count:
        return torch.empty(tuple(shape), dtype=dtype)
    flat = torch.frombuffer(region.read(first, count * dtype.itemsize), dtype=dtype)
    return flat.as_strided(tuple(shape), tuple(stride)).clone()
