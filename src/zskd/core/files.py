"""Atomic writing of files, their hashes, and the lock of a run folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from zskd.core.errors import ZskdError, escaped, readable_errors
from zskd.core.reading import opened

LOCK = ".lock"
"""File of a locked folder; it stays when the lock is released."""
_HASH_BLOCK = 1 << 20
_MOST_FILES = 1024
"""Open files of a process where the system names no limit."""
_UNFINISHED = ".tmp"
"""Prefix of temporary files. The temporary files of safetensors begin with it, too."""
_WRITER = f"{_UNFINISHED}.lock"
"""Locked by the process that writes a whole folder."""
_FLUSHES = 16
"""Files flushed at the same time: the file system writes those that wait for it together."""
_NO_FLUSH = (errno.EACCES, errno.EINVAL, errno.ENOTSUP)
"""Errors of flushing a folder that may not be read, or on a file system that flushes no folders."""


def cache_folder() -> Path:
    """Return the folder of downloads; the environment variable `ZSKD_CACHE` overrides it."""
    return Path(os.environ.get("ZSKD_CACHE") or platformdirs.user_cache_dir("zskd"))


def make_folder(path: Path) -> Path:
    """Create `path` with its parents, and flush their names.

    Raises:
        ZskdError: the folder cannot be created or written to, or the path is an address.
    """
    _check_local(path)
    with readable_errors(path, "create the folder"):
        new = list(takewhile(lambda folder: not folder.exists(), (path, *path.parents)))
        path.mkdir(parents=True, exist_ok=True)
        for folder in new:
            _flush_folder(folder.parent)
    if not os.access(path, os.W_OK | os.X_OK):
        raise ZskdError(f"cannot write to the folder {path}: choose another one or change its permissions")
    return path


def _check_local(path: Path) -> None:
    """Refuse an address, of which a path makes a folder named after its protocol."""
    first = path.parts[0] if path.parts else ""
    if re.fullmatch(r"[a-z0-9]{2,}:", first) and not os.path.lexists(first):
        raise ZskdError(
            f"{path} is no path of this machine: only zskd synthesize and zskd distill write to addresses, "
            "and zskd.upload(folder, address) copies any finished folder"
        )


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in a private folder next to `path`; on success rename the file to `path`.

    A reader sees the old file or the new one, never a part, even if the writer is killed or the power is cut:
    the bytes are flushed to disk before the file gets its name, and the name before this returns. When the
    body fails, the temporary file is removed and an older `path` is kept. The private folder is removed at
    the end. If the writer is killed, the next writer of the same path removes it. A link stays, and what it
    leads to is replaced.

    Raises:
        ZskdError: the file cannot be written (no permission, disk full), it is a device or a pipe, or
            something else has the name of the private folder.
    """
    _check_local(path)
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ZskdError(f"{path} is a device or a pipe: give a file")
    make_folder(path.parent)
    with readable_errors(path, "write"):
        _remove_unfinished(path)
        unfinished = _unfinished(path)
        unfinished.mkdir(mode=0o700)
        try:
            # a unique name, in case that another process writes the same file without a lock
            handle, name = tempfile.mkstemp(prefix=_UNFINISHED, suffix=path.suffix, dir=unfinished)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            _flush_file(temporary)
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
            _flush_folder(path.parent)
        finally:
            _remove_unfinished(path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder, which gets the name `path` on success; nothing is left otherwise.

    All files in it are flushed to disk before it gets its name, as by `whole_file`. If the writer is killed,
    the next writer of the same folder removes what is left.

    Args:
        path: absent, or an empty folder.

    Raises:
        ZskdError: `path` is not empty or no folder, cannot be written, another process writes it, or
            something else has the name of the private folder.
    """
    _check_local(path)
    path = Path(os.path.realpath(path))  # a link to an empty folder stays
    make_folder(path.parent)
    with readable_errors(path, "write"):
        if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
            what = "is not empty" if path.is_dir() else "is a file"
            raise ZskdError(f"{path} {what}: choose another folder")
        unfinished = _unfinished(path)
        if is_locked(unfinished, _WRITER):
            raise _in_use(path)
        _remove_unfinished(path, folders=True)
        unfinished.mkdir(mode=0o700)
        temporary = unfinished / _UNFINISHED
        try:
            with FileLock(unfinished / _WRITER):
                temporary.mkdir()
                yield temporary
                _flush_all(temporary)
                temporary.replace(path)
                _flush_folder(path.parent)
        finally:
            _remove_unfinished(path, folders=True)


def check_free(folder: Path, names: Iterable[str], what: str) -> None:
    """Check that a new artefact would not take the place of files of somebody's own.

    Args:
        folder: where it is to be, in which zskd has made nothing yet.
        names: of what is written over, deleted or taken for its own there.
        what: the artefact: "run".

    Raises:
        ZskdError: one of them is there.
    """
    if there := [name for name in names if os.path.lexists(folder / name)]:
        raise ZskdError(
            f"{folder} is no {what} of zskd and has {there[0]}, which a {what} would write over: name "
            f"another folder, such as --out {folder / what}"
        )


def remove_file(path: Path) -> None:
    """Delete a file that `whole_file` wrote, if it exists, and the temporary files of a killed writer.

    Raises:
        ZskdError: the file cannot be deleted, or something else has the name of the private folder.
    """
    with readable_errors(path, "delete"):
        _remove_unfinished(path)
        if os.path.lexists(path):
            path.unlink(missing_ok=True)
            _flush_folder(path.parent)  # or it would be there again after a power cut


def _unfinished(path: Path) -> Path:
    """Return the private folder for the temporary file of `path`."""
    return path.parent / f".{path.name}.zskd-part"


def _remove_unfinished(path: Path, *, folders: bool = False) -> None:
    """Remove the private folder of `path`, if it holds only temporary files, or also temporary folders.

    Raises:
        ZskdError: something else has its name.
    """
    folder = _unfinished(path)
    if not os.path.lexists(folder):
        return
    inside = list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else [folder]
    for child in inside:
        of_ours = child.is_file() or (folders and child.is_dir())
        if not child.name.startswith(_UNFINISHED) or child.is_symlink() or not of_ours:
            raise ZskdError(f"{child} is in the way of writing {path}, and zskd did not make it: move it")
    for child in inside:
        if child.is_dir():
            shutil.rmtree(child)
        else:
            child.unlink(missing_ok=True)
    folder.rmdir()


def _flush_file(path: Path) -> None:
    """Write the bytes of a file to disk: after a power cut, a file renamed without this can be empty."""
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _flush_all(folder: Path) -> None:
    """Write a folder to disk, with all that is in it."""
    with ThreadPoolExecutor(_FLUSHES) as pool:
        for inside, _, files in os.walk(folder):
            for _ in pool.map(_flush_file, (Path(inside, file) for file in files)):
                pass
            _flush_folder(Path(inside))


def _flush_folder(folder: Path) -> None:
    """Write the names in a folder to disk, where the operating system supports it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:  # the names are there, whether or not they can be flushed
        if error.errno not in _NO_FLUSH:
            raise


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8, atomically (see `whole_file`).

    Raises:
        ZskdError: as for `whole_file`, or the text has bytes of a name that is no UTF-8.
    """
    try:
        written = text.encode("utf-8")
    except UnicodeEncodeError as error:
        near = escaped(text[max(0, error.start - 20) : error.end])
        raise ZskdError(f"{path}: a name in it is no text in UTF-8 (…{near}): rename that file") from error
    with whole_file(path) as temporary:
        temporary.write_bytes(written)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; keys keep their order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def most_files() -> int:
    """Return how many files this process may have open at the same time."""
    try:
        import resource
    except ImportError:
        return _MOST_FILES
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST_FILES if limit == resource.RLIM_INFINITY else limit


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        ZskdError: the file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    with opened(path) as stream:
        while block := stream.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def first_difference(old: Any, new: Any, path: str) -> str:
    """Describe the first difference between two nested JSON values, for a message.

    Args:
        old: the stored value.
        new: the current value.
        path: name of both, for the message; "" for the top level.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**new, **old}:
            if old.get(key) != new.get(key):
                return first_difference(old.get(key), new.get(key), f"{path}.{key}".removeprefix("."))
    if isinstance(new, dict) or isinstance(old, dict) or len(f"{old}{new}") > 60:
        return path
    return f"{path} ({old} there, {new} now)"


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock `folder` inside the block; the operating system releases the lock when the process ends.

    Raises:
        ZskdError: another process has locked it, or the folder cannot be written to.
    """
    make_folder(folder)
    lock = FileLock(folder / LOCK)
    with readable_errors(folder, "lock"):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:  # a subclass of OSError
            raise _in_use(folder) from error
    try:
        yield
    finally:
        lock.release()


def _in_use(folder: Path) -> ZskdError:
    return ZskdError(f"{folder} is in use by another zskd process: wait for it, or choose another folder")


def is_locked(folder: Path, name: str = LOCK) -> bool:
    """Return whether a running process has locked `folder`, by the file of this name in it."""
    if not (folder / name).is_file():
        return False
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # a file of another user, or a disk that may only be read
        return _is_locked_for_readers(folder / name)
    lock.release()
    return False


def _is_locked_for_readers(lock: Path) -> bool:
    """Return whether the file of a lock that may not be written is locked."""
    import fcntl

    with opened(lock) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
