"""Arrays of plain numbers in files of NumPy: `.npy`, and `.npz` by name."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np

from zskd.core.reading import one_line_errors, opened

_LARGEST = 1 << 30
"""Bytes of one array."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_arrays(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Return arrays of a `.npz` file by name, or the array of a `.npy` file under the first name.

    No more is read than the header of an array tells, whatever an archive unfolds into.

    Args:
        path: the file; its content decides what it is.
        names: of the arrays to read; absent ones are left out.

    Raises:
        ZskdError: unreadable or damaged file, or an array that is too large or holds no plain numbers.
    """
    with opened(path) as stream, one_line_errors(f"{path} is no readable .npy or .npz file of plain arrays"):
        if stream.read(2) != b"PK":
            stream.seek(0)
            return {next(iter(names)): _read(stream)}
        with zipfile.ZipFile(stream) as archive:
            there = {one.removesuffix(".npy"): one for one in archive.namelist()}
            found = {}
            for name in names:
                if name in there:
                    with archive.open(there[name]) as part:
                        found[name] = _read(part)
            return found


def _read(stream: IO[bytes]) -> np.ndarray:
    """Read one array; it must be all that the stream holds.

    Raises:
        ValueError: it is damaged, too large or no array of plain numbers.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"an array has the unknown version {version[0]}.{version[1]}")
    shape, by_columns, dtype = _HEADERS[version](stream)
    if dtype.kind not in "fiubc" or any(n < 0 for n in shape):
        raise ValueError("an array holds no plain numbers")
    size = math.prod(shape) * dtype.itemsize
    if size > _LARGEST:
        raise ValueError(f"an array of {size:,} bytes is larger than any that is used")
    data = stream.read(size + 1)
    if len(data) != size:
        raise ValueError("an array is longer or shorter than its header tells")
    return (
        np.frombuffer(data, dtype)
        .reshape(shape, order="F" if by_columns else "C")
        .astype(dtype.newbyteorder("="))
    )
