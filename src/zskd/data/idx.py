"""IDX files, the format of MNIST and Fashion-MNIST (yann.lecun.com/exdb/mnist), plain or gzipped."""

from __future__ import annotations

import gzip
import math
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np

from zskd.core.errors import ZskdError
from zskd.core.reading import one_line_errors, opened

_UNSIGNED_BYTE = 0x08
_MOST_DIMENSIONS = 4
_LARGEST = 1 << 28
"""Values; the training images of MNIST are a sixth of it."""


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes.

    Args:
        path: the file without `.gz`; if it is absent, `path` with `.gz` is read.

    Returns:
        An array of uint8 with the shape in the file.

    Raises:
        ZskdError: the file is missing, too short or too long, or has a wrong magic number.
    """
    packed = path.with_name(path.name + ".gz")
    source = path if path.is_file() else packed
    if not source.exists():
        raise ZskdError(f"there is no file {path} and no {packed.name}: download it")
    with (
        opened(source) as stream,
        one_line_errors(f"{source} is damaged or cut off", "download it again"),
        gzip.open(stream) if source == packed else nullcontext(stream) as unpacked,
    ):
        return _read(unpacked, source)


def _read(stream: BinaryIO | gzip.GzipFile, source: Path) -> np.ndarray:
    """Read no more than the header tells: a packed file may unfold into a thousand times its size."""
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] != _UNSIGNED_BYTE or head[3] == 0:
        raise ZskdError(f"{source} is no IDX file of bytes: its magic number is {head.hex() or 'missing'}")
    sizes = stream.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise ZskdError(f"{source} is cut off inside its header: download it again")
    shape = tuple(map(int, np.frombuffer(sizes, dtype=">u4")))
    size = math.prod(shape)
    if len(shape) > _MOST_DIMENSIONS or not 0 < size <= _LARGEST:
        raise ZskdError(f"{source} would hold {size:,} values in {len(shape)} dimensions: download it again")
    raw = stream.read(size + 1)
    if len(raw) != size:
        found = f"more than {size:,}" if len(raw) > size else f"{len(raw):,}"
        raise ZskdError(f"{source} holds {found} values instead of {size:,}: download it again")
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape)
