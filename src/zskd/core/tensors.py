"""Named tensors on disk: safetensors files, with one-line errors."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zskd.core.errors import ZskdError, one_line, readable_errors
from zskd.core.reading import one_line_errors, opened, parse_json

_DTYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I32": np.int32, "I64": np.int64}
"""Number types that can be mapped: safetensors name -> NumPy type."""
_BITS = {"BOOL": 8, "BF16": 16, "C64": 64}
_BITS |= {f"{kind}{bits}": bits for kind in "FIU" for bits in (8, 16, 32, 64) if (kind, bits) != ("F", 8)}
"""Bits of one number, by the safetensors name of its type."""
_LARGEST_HEADER = 1 << 26
"""Bytes of a header; a tensor takes about 100."""
_MOST_DIMENSIONS = 64
"""Of a tensor of torch."""
_KINDS = {"float": "F", "bfloat": "BF", "int": "I", "uint": "U", "bool": "BOOL", "complex": "C"}
"""Number types without their bits: torch name -> safetensors name."""


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write named tensors as safetensors, each whole: also those of several names or of common memory.

    Raises:
        OSError: the disk is full or permission is missing. `whole_file` turns it into a `ZskdError`.
    """
    apart: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        # the library refuses tensors that share memory; a part of another begins anywhere in its storage
        storage = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if storage in storages and tensor.numel() else tensor
        storages.add(storage)
    try:
        save_file(apart, path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(one_line(error)) from error


def set_state(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a module weights and buffers of the same names and shapes, in place.

    The state that it loads has the version of each layer, which some networks ask for.
    """
    state = module.state_dict()
    state.update(tensors)
    module.load_state_dict(state)


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


class Entry(NamedTuple):
    """Where one tensor lies in a safetensors file."""

    dtype: str
    """Number type, in the words of the format: "F32"."""
    shape: tuple[int, ...]
    first: int
    """Byte of the file."""
    size: int
    """Bytes."""


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return what a safetensors file says of itself: name -> tensor, and its metadata.

    Raises:
        ZskdError: the file is missing, unreadable or not a complete safetensors file: a shape or a place in
            the file is impossible, or two tensors share bytes.
    """
    with opened(path) as stream, one_line_errors(f"{path} is not a complete safetensors file"):
        whole = os.fstat(stream.fileno()).st_size
        start = 8 + int.from_bytes(stream.read(8), "little")
        if whole < 8 or start > min(whole, _LARGEST_HEADER):
            raise ValueError("its header is cut off")
        header = parse_json(stream.read(start - 8))
        metadata = header.pop("__metadata__", {})
        entries = {name: _entry(one, start, whole) for name, one in header.items()}
        if any(not isinstance(one, str) for one in metadata.values()):
            raise ValueError("its metadata are no texts")
    ends = start
    for one in sorted(entries.values(), key=lambda one: (one.first, one.size)):
        if one.first != ends:
            raise ZskdError(f"{path} is not a complete safetensors file (its tensors overlap): copy it again")
        ends += one.size
    if ends != whole:
        raise ZskdError(f"{path} is not a complete safetensors file (its end is missing): copy it again")
    return entries, metadata


def _entry(values: Mapping[str, Any], start: int, whole: int) -> Entry:
    """Return an entry of a header, checked.

    Raises:
        ValueError: its sizes or its place are impossible.
        KeyError, TypeError: it lacks something.
    """
    shape, (first, last), bits = values["shape"], values["data_offsets"], _BITS.get(values["dtype"])
    numbers = [*shape, first, last]
    if any(type(one) is not int or not 0 <= one < 2**48 for one in numbers) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError("a tensor has an impossible shape")
    if not first <= last <= whole - start or (bits and (last - first) * 8 != math.prod(shape) * bits):
        raise ValueError("a tensor has another size than its part of the file")
    return Entry(values["dtype"], tuple(shape), start + first, last - first)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ZskdError: the file is missing, unreadable or not a complete safetensors file.
    """
    read_header(path)  # the library is made for files of its own
    with readable_errors(path, "read"), one_line_errors(f"{path} is not a complete safetensors file"):
        return load_file(path)


def map_tensors(path: Path) -> dict[str, Tensor]:
    """Map a safetensors file read-only: the tensors are pages of the file, not memory of this process.

    The safetensors library maps files as private and writable, which counts against the memory limit of a
    process. Do not write to the returned tensors.

    Raises:
        ZskdError: the file is missing, unreadable, not a complete safetensors file, or has tensors of a type
            other than float32, float16, uint8, int32 and int64.
    """
    entries, _ = read_header(path)
    other = next((name for name, one in entries.items() if one.dtype not in _DTYPES), None)
    if other is not None:
        raise ZskdError(f"{path} holds numbers of type {entries[other].dtype} in {other!r}: make it again")
    with readable_errors(path, "read"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        raw = np.memmap(path, dtype=np.uint8, mode="r")
        return {name: torch.from_numpy(_slice(raw, entry)) for name, entry in entries.items()}


def _slice(data: np.ndarray, entry: Entry) -> np.ndarray:
    return data[entry.first : entry.first + entry.size].view(_DTYPES[entry.dtype]).reshape(entry.shape)
