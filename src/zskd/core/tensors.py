"""Named tensors on disk: safetensors, with errors of one line."""

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

_KINDS = {"F32": np.float32, "I32": np.int32, "I64": np.int64}
"""How safetensors and NumPy call the kinds of numbers that can be mapped."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write named tensors as safetensors.

    Raises:
        OSError: a full disk or a missing right; `whole_file` names the file that was to be written.
    """
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(one_line(error)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ZskdError: missing, unreadable, or no whole safetensors file.
    """
    if not path.is_file():
        raise ZskdError(f"there is no file {path}")
    try:
        with readable_errors(path, "read"):
            return load_file(path)
    except SafetensorError as error:
        raise ZskdError(f"{path} is no whole safetensors file ({one_line(error)})") from error


def map_tensors(path: Path) -> dict[str, Tensor]:
    """Map a safetensors file read-only: its tensors are pages of the file and no memory of this process.

    The library maps files as private and writable, which counts against a process's limit on data. What
    comes back must not be written to.

    Raises:
        ZskdError: missing, unreadable, no whole safetensors file, or of another kind than `_KINDS`.
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
        raise ZskdError(f"{path} is no whole safetensors file ({one_line(error)})") from error


def _slice(data: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    first, last = entry["data_offsets"]
    return data[first:last].view(_KINDS[entry["dtype"]]).reshape(entry["shape"])
