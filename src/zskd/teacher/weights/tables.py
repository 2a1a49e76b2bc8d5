"""safetensors files, networks in several files (an index beside its shards), and folders with either."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from zskd.core.errors import ZskdError, one_line, readable_errors
from zskd.core.reading import opened, parse_json
from zskd.core.tensors import read_header
from zskd.teacher.weights.archive import Contents
from zskd.teacher.weights.gather import Candidates
from zskd.teacher.weights.stored import StoredTensor
from zskd.teacher.weights.torch_objects import obstacle

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LARGEST_INDEX = 1 << 26
"""Bytes of an index; a tensor takes about 100."""
_IN_FOLDERS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
"""Names that libraries of Hugging Face give to the weights of a folder, in the order of the search."""
_BESIDE = (".json", ".txt", ".md", ".py", ".yaml", ".yml", ".csv", ".log")
"""Endings of files that lie beside weights."""

ReadFile = Callable[[Path], Contents]


def read_safetensors(path: Path) -> Contents:
    """Read the header of a safetensors file.

    Raises:
        ZskdError: it is damaged.
    """
    entries, _ = read_header(path)
    tensors = {name: _stored(path, name, one.shape, one.dtype) for name, one in entries.items()}
    return Contents("safetensors", {"": tensors} if tensors else {})


def _stored(path: Path, name: str, shape: tuple[int, ...], kind: str) -> StoredTensor:
    def read() -> torch.Tensor:
        try:
            with safe_open(path, "pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(one_line(error)) from error
        return tensor

    dtype = _DTYPES.get(kind)
    if dtype is None:
        return StoredTensor(shape, torch.uint8, read, f"holds numbers of type {kind}")
    return StoredTensor(shape, dtype, read, obstacle(dtype))


def is_index(path: Path) -> bool:
    """Return whether a file is the index of a network in several files."""
    return isinstance(_index(path), dict)


def _index(path: Path) -> Any:
    try:
        with opened(path) as stream:
            start = stream.read(64)
            if not start.lstrip().startswith(b"{"):
                return None
            return parse_json(start + stream.read(_LARGEST_INDEX)).get("weight_map")
    except (ValueError, AttributeError, RecursionError):
        return None


def read_index(path: Path, read: ReadFile) -> tuple[Contents, tuple[Path, ...]]:
    """Read all shards of an index; each must lie in the folder of the index.

    Raises:
        ZskdError: a shard is missing, or lacks a tensor.
    """
    table: dict[str, Any] = _index(path)
    if not all(isinstance(name, str) and Path(name).name == name for name in table.values()):
        raise ZskdError(f"{path} names a file outside of its folder: give an index beside its shards")
    names = dict.fromkeys(table.values())
    for name in names:
        if not (path.parent / name).is_file():
            raise ZskdError(
                f"{path.parent / name} is missing: {path.name} needs {len(names)} files beside it"
            )
    shards = [read(path.parent / name) for name in names]
    parts: list[Candidates] = [shard.candidates for shard in shards]
    tensors = {name: one for part in parts for group in part.values() for name, one in group.items()}
    missing = [name for name in table if name not in tensors]
    if missing:
        raise ZskdError(
            f"{path.parent / table[missing[0]]} lacks {missing[0]!r}, which {path.name} expects in it"
        )
    kind = f"{shards[0].kind if shards else 'index'} in {len(names)} files"
    return Contents(kind, {"": tensors}), tuple(path.parent / name for name in names)


def weights_in_folder(folder: Path) -> Path:
    """Return the file of a folder that holds its weights or their index.

    Raises:
        ZskdError: there is none, or several.
    """
    for name in _IN_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    if (folder / ".metadata").is_file():
        raise ZskdError(
            f"{folder} is a distributed checkpoint of torch: convert it with "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        )
    with readable_errors(folder, "read"):
        files = [one for one in sorted(folder.iterdir()) if one.is_file() and not one.name.startswith(".")]
    index = [one for one in files if one.name.endswith(".index.json")]
    left = index or [one for one in files if one.suffix.lower() not in _BESIDE]
    if len(left) == 1:
        return left[0]
    seen = ", ".join(one.name for one in left[:4]) or "none"
    raise ZskdError(f"{folder} holds no single file of weights ({seen}): give the file itself")
