"""Places that can be typed: a path of this machine, or an address such as s3://bucket/set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from zskd.core.progress import Progress

Place = str
"""A path, or an address that `core.remote` reads. Only what the user types is one; a recipe names paths."""


def local(place: Place, progress: Progress | None = None) -> Path:
    """Return a path of this machine with what is at a place.

    Raises:
        ZskdError: nothing whole is at an address, or it cannot be read.
    """
    from zskd.core.remote import download, is_address

    return download(place, progress) if is_address(place) else Path(place)


def on_this_machine(place: Place) -> bool:
    """Return whether a place is a path, and no address."""
    from zskd.core.remote import is_address

    return not is_address(place)


@contextmanager
def output(
    place: Place, key: str, lock: Callable[[Path], AbstractContextManager[None]], progress: Progress
) -> Iterator[Path]:
    """Yield the folder to write to: the place itself, locked, or one whose files go to an address at the end.

    Args:
        place: where the user wants it.
        key: identifies what is made, for a folder that is continued after an interruption.
        lock: of a path.
        progress: reports the files of an address.

    Raises:
        ZskdError: the lock fails, or the address holds something or cannot be written to.
    """
    from zskd.core.remote import is_address, uploaded

    if is_address(place):
        with uploaded(place, key, progress) as folder:
            yield folder
    else:
        with lock(Path(place)):
            yield Path(place)
