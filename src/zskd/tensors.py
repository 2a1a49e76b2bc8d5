"""Named tensors on disk: safetensors, with errors of one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zskd.errors import ZskdError, one_line
from zskd.files import readable_errors


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write named tensors as safetensors; a full disk or missing right becomes one line."""
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        raise ZskdError(f"cannot write {path.parent}: {one_line(error)}") from error


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
