"""Read a file of weights by its content, whatever its name. No code in it is run or imported."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from zskd.core.errors import ZskdError, one_line
from zskd.core.files import sha256_file, sha256_json
from zskd.core.reading import one_line_errors, opened
from zskd.teacher.weights.archive import Contents, read_archive
from zskd.teacher.weights.gather import Candidates, gather
from zskd.teacher.weights.matlab import read_matlab
from zskd.teacher.weights.pickles import read_pickle
from zskd.teacher.weights.signatures import signature, text
from zskd.teacher.weights.stored import StoredTensor
from zskd.teacher.weights.tables import is_index, read_index, read_safetensors, weights_in_folder

_HEAD = 4096


@dataclass(frozen=True)
class WeightsFile:
    """The named tensors of a file; their values are not read yet."""

    path: Path
    """The file, or the folder that was given."""
    kind: str
    """Its format in words: "torch archive", "safetensors in 2 files"."""
    candidates: Candidates
    """Key path inside the file ("state_dict", "model_ema.module", "" at the top) -> name -> tensor."""
    files: tuple[Path, ...]
    """All files that were read."""
    unnamed: int = 0
    """Tensors in lists, which have no names."""
    names: tuple[str, ...] = ()
    """Classes and functions that a pickle names; none was imported or run."""

    def largest(self, weights: str | None = None) -> Mapping[str, StoredTensor]:
        """Return the dictionary at a place ("." for the top), or else the one with most tensors."""
        chosen = [tensors for key, tensors in self.candidates.items() if weights == (key or ".")]
        return max(chosen or self.candidates.values(), key=len, default={})

    def sha256(self) -> str:
        """Return the SHA-256 of the file; of several files, that of their names with theirs.

        Raises:
            ZskdError: a file cannot be read.
        """
        if len(self.files) == 1:
            return sha256_file(self.files[0])
        return sha256_json({one.name: sha256_file(one) for one in self.files})


def read_weights(path: Path) -> WeightsFile:
    """Read what named tensors a file holds.

    Formats: torch (present and old format, whole modules, Lightning), TorchScript, torch.export, safetensors,
    shards with an index, a folder of Hugging Face, pickles and `.npz` of arrays, the reproduction's `.mat`.

    Args:
        path: a file, an index of shards, or a folder with one of them.

    Raises:
        ZskdError: the file is missing, damaged, or something else; one line says what it is.
    """
    given = path
    if path.is_dir():
        path = weights_in_folder(path)
    if not path.is_file():
        raise ZskdError(f"there is no file {path}")
    files: tuple[Path, ...] = (path,)
    if is_index(path):
        contents, shards = read_index(path, _read_file)
        files += shards
    else:
        contents = _read_file(path)
    return WeightsFile(given, contents.kind, contents.candidates, files, contents.unnamed, contents.names)


def _read_file(path: Path) -> Contents:
    with opened(path) as stream, one_line_errors(f"{path} is no complete file of weights"):
        head = stream.read(_HEAD)
        stream.seek(0)
        if not head:
            raise ZskdError(f"{path} is empty: copy or download it again")
        known = signature(head)
        if known:
            raise ZskdError(f"{path} {known}")
        if head.startswith(b"MATLAB 5.0 MAT-file"):
            return read_matlab(path)
        if _begins_as_safetensors(head):
            return read_safetensors(path)
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return _told(path, "archive of weights", lambda: read_archive(stream, path))
        if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
            return _told(path, "pickle", lambda: _read_pickle(stream, path))
        return _read_unknown(stream, path, head)


def _told(path: Path, kind: str, read: Callable[[], Contents]) -> Contents:
    """Turn the failure of a reader into one line."""
    try:
        return read()
    except ValueError as error:
        why = one_line(error)[:300]
        if why.startswith("it is "):
            raise ZskdError(f"{path} {why.removeprefix('it ')}") from error
        raise ZskdError(f"{path} is no complete {kind} ({why}): copy or download it again") from error


def _begins_as_safetensors(head: bytes) -> bool:
    """Return whether a length and a JSON object come first."""
    return len(head) > 8 and int.from_bytes(head[:8], "little") < 1 << 40 and head[8:9] == b"{"


def _read_pickle(stream: BinaryIO, path: Path) -> Contents:
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = read_pickle(data, path, len(data))
    inside = gather(found.tree)
    kind = "torch file in the old format" if found.old_torch else "pickle"
    return Contents(kind, inside.candidates, inside.unnamed, found.names)


def _read_unknown(stream: BinaryIO, path: Path, head: bytes) -> Contents:
    """Read a pickle of protocol 0 or 1, which begin with anything; other files are told as what they are."""
    try:
        return _read_pickle(stream, path)
    except ValueError as error:
        what = text(head) or f"is no file of weights in a known format (it begins with {head[:8].hex(' ')})"
        raise ZskdError(f"{path} {what}") from error
