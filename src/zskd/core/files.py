"""Files that are either whole or absent, their hashes, and the lock of a run folder."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from zskd.core.errors import ZskdError, one_line

_HASH_BLOCK = 1 << 20
_UNFINISHED = ".tmp"
"""How the names of files begin that are being written; safetensors has one of its own that begins so."""


@contextmanager
def readable_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn an `OSError` on `path` (no rights, disk full, not a folder) into one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise ZskdError(f"cannot {doing} {path}: {reason}") from error


def make_folder(path: Path) -> Path:
    """Create `path` with its parents.

    Raises:
        ZskdError: it cannot be made or written to.
    """
    with readable_errors(path, "create the folder"):
        path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise ZskdError(f"cannot write to the folder {path}: choose another one or change its rights")
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path in a private folder beside `path`; on success flush it and rename it to `path`.

    A reader sees the old file or the new one, never a part, whatever kills the writer. When the body
    fails, the temporary file is removed and an older `path` stays as it was. The private folder goes in
    the end; that of a writer who was killed goes when the same path is written again.

    Raises:
        ZskdError: the file cannot be written (no rights, disk full), or something else has the name of
            the private folder.
    """
    make_folder(path.parent)
    with readable_errors(path, "write"):
        _remove_unfinished(path)
        unfinished = _unfinished(path)
        unfinished.mkdir(mode=0o700)
        try:
            # a name that no other writer has, should there be one at the same time in spite of all locks
            handle, name = tempfile.mkstemp(prefix=_UNFINISHED, suffix=path.suffix, dir=unfinished)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
            _flush_folder(path.parent)
        finally:
            _remove_unfinished(path)


def remove_file(path: Path) -> None:
    """Delete a file that `whole_file` wrote, if it is there, and what a killed writer of it left behind."""
    with readable_errors(path, "delete"):
        _remove_unfinished(path)
        path.unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    """Return the folder in which `path` is written; its name says whose it is."""
    return path.parent / f".{path.name}.zskd-part"


def _remove_unfinished(path: Path) -> None:
    """Remove the private folder of `path`, and nothing that a writer cannot have left there.

    Raises:
        ZskdError: something else has its name.
    """
    folder = _unfinished(path)
    if not os.path.lexists(folder):
        return
    inside = list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else [folder]
    for child in inside:
        if not child.name.startswith(_UNFINISHED) or child.is_symlink() or not child.is_file():
            raise ZskdError(f"{child} is in the way of writing {path}, and it is not zskd's: move it away")
    for child in inside:
        child.unlink(missing_ok=True)
    folder.rmdir()


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` as a whole file in UTF-8."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, keys in the order given, a whole file."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        what: the file's role, for the message ("the manifest of the transfer set").

    Raises:
        ZskdError: missing, unreadable, cut off, or not an object.
    """
    if not path.is_file():
        raise ZskdError(f"{path} is missing: it should be {what}")
    try:
        with readable_errors(path, "read"):
            value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ZskdError(
            f"{path}, {what}, is damaged ({one_line(error)}): delete it and make it again"
        ) from error
    if not isinstance(value, dict):
        raise ZskdError(f"{path}, {what}, does not hold a JSON object: delete it and make it again")
    return value


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with readable_errors(path, "read"), path.open("rb") as stream:
        while block := stream.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def first_difference(old: Any, new: Any, path: str) -> str:
    """Name the first value that differs between two nested JSON values, for a message."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in new:
            if old.get(key) != new[key]:
                return first_difference(old.get(key), new[key], f"{path}.{key}".removeprefix("."))
    if isinstance(new, dict) or len(f"{old}{new}") > 60:
        return path
    return f"{path} ({old} there, {new} now)"


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the operating system frees it when the process dies.

    Raises:
        ZskdError: another living process holds it.
    """
    make_folder(folder)
    lock = FileLock(folder / ".lock")
    with readable_errors(folder, "lock"):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:  # an OSError as well
            raise ZskdError(
                f"{folder} is in use by another zskd process: wait for it, or choose another folder"
            ) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a living process holds `folder`."""
    if not (folder / ".lock").is_file():
        return False
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
