"""Where results are written: what a new folder or file may not replace."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from zskd.core.errors import ZskdError

_WRITTEN = ("model.safetensors", "training.safetensors")
"""What is written over or taken for a part of a checkpoint, where it is there."""


@contextmanager
def new_folder(
    folder: Path, what: Literal["teacher", "student"] = "teacher", also: Collection[str] = ()
) -> Iterator[None]:
    """Lock a folder for a checkpoint that is not finished.

    Args:
        folder: new, or that of an interrupted command.
        what: is made.
        also: names of what is written over beside the checkpoint.

    Raises:
        ZskdError: it is finished, holds files of the user's that would be lost, another process has locked
            it, or it cannot be written to.
    """
    from zskd.core.files import LOCK, check_free, folder_lock

    _must_be_unfinished(folder)
    if not (folder / LOCK).exists():  # it stays where a command was interrupted
        check_free(folder, (*_WRITTEN, *also), what)
    with folder_lock(folder):
        _must_be_unfinished(folder)  # another process may have finished it meanwhile
        yield


def _must_be_unfinished(folder: Path) -> None:
    from zskd.models.checkpoint import CARD

    if (folder / CARD).exists():
        raise ZskdError(f"{folder} is finished already: choose another folder, or delete it")


def must_be_absent(path: Path) -> None:
    """Check that nothing is replaced.

    Raises:
        ZskdError: there is a file, or a folder that is not empty or whose place another one cannot take.
    """
    if os.path.ismount(path) or (path.is_dir() and path.samefile(Path.cwd())):
        raise ZskdError(f"{path} cannot be replaced by a new folder: name one inside of it")
    if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
        raise ZskdError(f"{path} is there already: choose another name, or delete it")


def must_be_result(path: Path, keys: Collection[str]) -> None:
    """Check that a file of results takes the place of no other file than of earlier ones.

    Args:
        path: of the file.
        keys: that results can have.

    Raises:
        ZskdError: there is something else.
    """
    from zskd.core.reading import read_json

    if not os.path.lexists(path):
        return
    try:
        earlier = read_json(path, "earlier results", "choose another name").keys() <= set(keys)
    except ZskdError:
        earlier = False
    if not earlier:
        raise ZskdError(f"{path} is there already and holds no such results: choose another name")
