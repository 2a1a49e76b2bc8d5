"""Named tensors on disk: safetensors files, with one-line errors."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zskd.core.errors import ZskdError, one_line
from zskd.core.files import readable_errors

_DTYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I32": np.int32, "I64": np.int64}
"""Number types that can be mapped: safetensors name -> NumPy type."""
_KINDS = {"float": "F", "bfloat": "BF", "int": "I", "uint": "U", "bool": "BOOL", "complex": "C"}
"""Number types without their bits: torch name -> safetensors name."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write named tensors as safetensors.

    Raises:
        OSError: the disk is full or permission is missing. `whole_file` turns it into a `ZskdError`.
    """
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(one_line(error)) from error


def stored_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the size in bytes of the file that `save_tensors` writes, without writing it."""
    header, end = {}, 0
    # the order of the format: larger numbers first, so that all are aligned
    for name, tensor in sorted(tensors.items(), key=lambda one: (-one[1].element_size(), one[0])):
        span, end = [end, end + tensor.nbytes], end + tensor.nbytes
        kind = str(tensor.dtype).removeprefix("torch.")
        dtype = _KINDS[kind.rstrip("0123456789")] + kind.lstrip("abcdefghijklmnopqrstuvwxyz")
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": span}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + end


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ZskdError: the file is missing, unreadable or not a complete safetensors file.
    """
    if not path.is_file():
        raise ZskdError(f"there is no file {path}")
    try:
        with readable_errors(path, "read"):
            return load_file(path)
    except SafetensorError as error:
        raise ZskdError(f"{path} is not a complete safetensors file ({one_line(error)})") from error


def map_tensors(path: Path) -> dict[str, Tensor]:
    """Map a safetensors file read-only: the tensors are pages of the file, not memory of this process.

    The safetensors library maps files as private and writable, which counts against the memory limit of a
    process. Do not write to the returned tensors.

    Raises:
        ZskdError: the file is missing, unreadable, not a complete safetensors file, or has tensors of a type
            other than float32, float16, uint8, int32 and int64.
    """
    if not path.is_file():
        raise ZskdError(f"there is no file {path}")
    try:
        with readable_errors(path, "read"):
            raw = np.memmap(path, dtype=np.uint8, mode="r")
        start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
        if start > len(raw):
            raise ValueError("its header is cut off")
        header = json.loads(raw[8:start].tobytes())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return {
                name: torch.from_numpy(_slice(raw[start:], entry))
                for name, entry in header.items()
                if name != "__metadata__"
            }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ZskdError(f"{path} is not a complete safetensors file ({one_line(error)})") from error


def _slice(data: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    first, last = entry["data_offsets"]
    return data[first:last].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
