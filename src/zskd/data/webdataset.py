"""Pictures in tar files, as WebDataset packs them. Nothing is unpacked."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from zskd.core.errors import ZskdError, escaped, one_line, readable_errors
from zskd.data.packed import ENDINGS, Packed, check_number, check_size

_BLOCK = 512
_MOST_HEADER = 1 << 20
"""Bytes of a header that are read at once: names are shorter, whatever size it claims."""


@dataclass(frozen=True, slots=True)
class TarPicture(Packed):
    """A member of a tar file."""

    archive: Path
    name: str
    offset: int
    """Where it begins in the archive."""
    size: int

    def __str__(self) -> str:
        return f"{self.archive}/{escaped(self.name)}"

    def read(self) -> bytes:
        """Return the picture as it is stored.

        Raises:
            ZskdError: the archive cannot be read, or the picture is too large.
        """
        check_size(self.size, str(self))
        with readable_errors(self.archive, "read"), self.archive.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)


def tar_pictures(archive: Path) -> list[TarPicture]:
    """List the pictures of a tar file.

    As in WebDataset, a name ends at its first dot: `0001.jpg` is a picture, `0001.mask.png` is not. Links,
    sparse files and hidden files are left out.

    Args:
        archive: not compressed.

    Raises:
        ZskdError: the file cannot be read, or is damaged, compressed or no tar file.
    """
    found, end = list[TarPicture](), 0
    with readable_errors(archive, "read"), _Headers(archive.open("rb", buffering=0)) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined] # it would keep them all
                    if tar.offset <= end or member.size < 0:
                        raise tarfile.ReadError("a size is negative")
                    end = tar.offset
                    if _is_picture(member):
                        found.append(TarPicture(archive, member.name, member.offset_data, member.size))
                        check_number(len(found), archive)
                stream.seek(tar.offset)
                if stream.read(_BLOCK).strip(b"\0"):
                    raise tarfile.ReadError("a header is damaged")
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            raise ZskdError(
                f"{archive} is no readable tar file ({one_line(error)}): give one that is whole "
                "and not compressed"
            ) from error
    return found


def _is_picture(member: tarfile.TarInfo) -> bool:
    name = PurePosixPath(member.name).name
    _, dot, ending = name.partition(".")
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    return plain and not name.startswith(".") and f"{dot}{ending}".lower() in ENDINGS


class _Headers(io.BufferedReader):
    """A file of which only pieces as large as headers can be read."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, unless a header claims to be larger than any is."""
        if size is None or not 0 <= size <= _MOST_HEADER:
            raise tarfile.ReadError("a header is too large")
        return super().read(size)
