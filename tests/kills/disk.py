"""What a power cut leaves of a folder, at worst.

Bytes are on the disk when their file was flushed, and names when their folder was (POSIX promises no more).
Another file system keeps all names and loses bytes: then a file is empty that was renamed and not flushed.
A program whose folder can be used after both can be used after any power cut.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

NAMES = ("flushed", "all")
"""Which names survive."""
_CHANGES = ("replace", "rename", "mkdir", "rmdir", "unlink", "remove")
_Version = tuple[int, int]


class Disk:
    """What of a folder is on the disk; all that it holds at first is."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[int, tuple[_Version, bytes]] = {}
        """Of flushed files, by inode; a file that was changed since has another version."""
        self._folders: dict[int, dict[str, int | bytes]] = {}
        """Names of flushed folders, by number: bytes of a file, or the number of a folder."""
        self._numbers: dict[int, int] = {}
        """Of the folders there are, by inode: that of a folder which is gone is used again."""
        self._counted = count()
        for folder, _, files in os.walk(root, topdown=False):
            for file in files:
                self.flush(Path(folder, file))
            self.flush(Path(folder))

    def flush(self, path: Path) -> None:
        """Keep what a file or a folder holds now."""
        found = path.stat()
        if not path.is_dir():
            content = path.read_bytes()
            self._files[found.st_ino] = (_version(path), content)
            known = self._folders.get(self._number(path.parent), {})
            if isinstance(known.get(path.name), bytes):  # lengthened in place: its name is on the disk
                known[path.name] = content
            return
        self._folders[self._number(path)] = {
            one.name: self._number(one) if one.is_dir() else self._flushed(one) for one in path.iterdir()
        }

    def begin(self, folder: Path) -> None:
        """Begin with a new folder."""
        self._numbers[folder.stat().st_ino] = next(self._counted)

    def _number(self, folder: Path) -> int:
        inode = folder.stat().st_ino
        if inode not in self._numbers:
            self.begin(folder)
        return self._numbers[inode]

    def leave(self, names: str, into: Path) -> None:
        """Write what a power cut would leave now; `names` is one of `NAMES`."""
        into.mkdir(parents=True, exist_ok=True)
        if names == "flushed":
            self._leave_flushed(self._number(self.root), into)
            return
        for path in self.root.rglob("*"):
            copy = into / path.relative_to(self.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.mkdir(exist_ok=True) if path.is_dir() else copy.write_bytes(self._flushed(path))

    def _leave_flushed(self, folder: int, into: Path) -> None:
        for name, inside in self._folders.get(folder, {}).items():
            if isinstance(inside, bytes):
                (into / name).write_bytes(inside)
            else:
                (into / name).mkdir()
                self._leave_flushed(inside, into / name)

    def _flushed(self, path: Path) -> bytes:
        """Return the bytes of a file that are on the disk; none of one that was changed since its flush."""
        version, content = self._files.get(path.stat().st_ino, ((-1, -1), b""))
        return content if version == _version(path) else b""


def _version(path: Path) -> _Version:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


@contextmanager
def watched(root: Path, at_event: Callable[[Disk], None]) -> Iterator[Disk]:
    """Follow what this process flushes in a folder.

    Args:
        root: the folder; an absolute path.
        at_event: called before each flush, each new folder, and each change or end of a name in it.
    """
    disk, in_turns = Disk(root), Lock()
    before = {name: getattr(os, name) for name in (*_CHANGES, "fsync")}

    def changing(name: str) -> Callable[..., Any]:
        def change(path: Any, *others: Any, **more: Any) -> Any:
            inside = _inside(path, more.get("dir_fd"), root)
            if inside is not None:
                at_event(disk)
            result = before[name](path, *others, **more)
            if inside is not None and name == "mkdir":
                disk.begin(inside)
            return result

        return change

    def fsync(handle: int) -> None:
        inside = _inside(handle, None, root)
        with in_turns:  # files of a folder are flushed by several threads
            if inside is not None:
                at_event(disk)
            before["fsync"](handle)
            if inside is not None:
                disk.flush(inside)

    for name in _CHANGES:
        setattr(os, name, changing(name))
    os.fsync = fsync
    try:
        yield disk
    finally:
        for name, function in before.items():
            setattr(os, name, function)


def _inside(path: Any, folder: int | None, root: Path) -> Path | None:
    """Return the absolute path of a file, or of an open one; None if it is not in `root`."""
    if isinstance(path, int):
        found = Path(f"/proc/self/fd/{path}").readlink()
    else:
        start = Path.cwd() if folder is None else Path(f"/proc/self/fd/{folder}").readlink()
        found = start / os.fspath(path)
    return found if found.is_relative_to(root) else None
