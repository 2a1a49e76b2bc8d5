"""Pictures inside of files that hold many: what they have in common, and their bounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from zskd.core.errors import ZskdError

MOST_BYTES: Final = 1 << 26
"""Largest size of one picture in such a file, as it is stored."""
MOST_PICTURES: Final = 10_000_000
"""Largest number of pictures in all files that are given together."""
ENDINGS: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)
"""Of the names of pictures, in lower case."""


class ScratchError(ZskdError):
    """Pictures cannot be kept on the disk: no picture is to blame, and none may be left out for it."""


class Packed(ABC):
    """One picture inside of a file. Its text names it for messages."""

    @abstractmethod
    def read(self) -> bytes:
        """Return the picture as it is stored: a PNG, JPEG, … file.

        Raises:
            ZskdError: it is damaged, or larger than `MOST_BYTES`.
            ScratchError: what was read cannot be kept.
        """


Picture = Path | Packed
"""A picture that is a file, or in one."""


def check_size(size: int, what: str) -> None:
    """Check the size of a picture before it is read.

    Raises:
        ZskdError: it is too large.
    """
    if size > MOST_BYTES:
        raise ZskdError(f"{what} is no readable picture (it is larger than {MOST_BYTES >> 20} MiB)")


def check_number(count: int, file: Path) -> None:
    """Check the number of pictures before they are listed.

    Raises:
        ZskdError: there are too many.
    """
    if count > MOST_PICTURES:
        raise ZskdError(f"{file} holds more than {MOST_PICTURES:,} pictures: give a part of them")
