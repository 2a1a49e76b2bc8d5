"""IDX files, the format of MNIST and Fashion-MNIST (yann.lecun.com/exdb/mnist), plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from zskd.core.errors import ZskdError, one_line
from zskd.core.files import readable_errors

_UNSIGNED_BYTE = 0x08


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
    with readable_errors(source, "read"):
        raw = source.read_bytes()
    try:
        if source == packed:
            raw = gzip.decompress(raw)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ZskdError(f"{source} is damaged or cut off ({one_line(error)}): download it again") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UNSIGNED_BYTE or raw[3] == 0:
        raise ZskdError(f"{source} is no IDX file of bytes: its magic number is {raw[:4].hex() or 'missing'}")
    dimensions = raw[3]
    start = 4 + 4 * dimensions
    if len(raw) < start:
        raise ZskdError(f"{source} is cut off inside its header: download it again")
    shape = tuple(int(size) for size in np.frombuffer(raw, dtype=">u4", count=dimensions, offset=4))
    size = int(np.prod(shape, dtype=np.int64))
    if len(raw) - start != size:
        raise ZskdError(f"{source} holds {len(raw) - start:,} values instead of {size:,}: download it again")
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)
