"""Pictures in a column of Parquet files, as Hugging Face `datasets` writes them."""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from zskd.core.errors import ZskdError, one_line, readable_errors
from zskd.core.extras import import_extra
from zskd.data.packed import Packed, ScratchError, check_number, check_size

_ROWS = 16
"""Rows that are decoded at once."""
_BUFFER = 1 << 20
"""Bytes that are read from a file at once; without it, pyarrow reads all rows of a group."""
_NAMES = ("image", "img", "picture", "png", "jpg")
"""Names that decide between several columns of bytes, the first first."""


@dataclass(frozen=True, slots=True)
class ParquetPicture(Packed):
    """A row of Parquet files."""

    rows: _Rows
    row: int
    """Of all files together, from 0."""

    def __str__(self) -> str:
        return self.rows.name(self.row)

    def read(self) -> bytes:
        """Return the picture as it is stored.

        Raises:
            ZskdError: the file is damaged, the row holds no picture, or it is too large.
            ScratchError: what was read cannot be kept.
        """
        return self.rows.read(self.row)


def parquet_pictures(files: Sequence[Path], scratch: Path | None = None) -> list[ParquetPicture]:
    """List the pictures of Parquet files: the rows of their column of pictures.

    It is a column of `datasets` (a struct with `bytes`), or of plain bytes; where there are several, the one
    named `image`, `img`, `picture`, `png` or `jpg`. Paths that the files name are not opened. What was read
    once is kept in an unnamed file, because rows of Parquet can be read in their order only.

    Args:
        files: at least one.
        scratch: folder of that unnamed file; absent: where the system keeps such files.

    Raises:
        ZskdError: pyarrow is not installed, or a file is damaged or has no such column.
    """
    groups, first = list[_Group](), 0
    for path in files:
        file, of_file = _open(path), first
        column = _column(file.schema_arrow, path)
        for number in range(file.metadata.num_row_groups):
            groups.append(_Group(path, of_file, column, number, first))
            first += max(file.metadata.row_group(number).num_rows, 0)
            check_number(first, path)
    rows = _Rows(groups, scratch)
    return [ParquetPicture(rows, row) for row in range(first)]


@dataclass(frozen=True)
class _Group:
    """Rows that stand together in a file."""

    path: Path
    of_file: int
    """The first row of the file, as they are numbered here."""
    column: str
    """Path of the bytes in the schema."""
    number: int
    """Of the group in the file."""
    first: int
    """Its first row."""


class _Rows:
    """Reads single rows; those that follow each other without a second look at those before."""

    def __init__(self, groups: Sequence[_Group], scratch: Path | None) -> None:
        self._groups, self._firsts = groups, [group.first for group in groups]
        self._scratch = Path(tempfile.gettempdir()) if scratch is None else scratch
        self._copies: IO[bytes] | None = None
        self._places: dict[int, tuple[int, int]] = {}
        self._file: tuple[Path, Any] | None = None
        self._reading: _Group | None = None
        self._values: Iterator[Any] = iter(())
        self._next = 0

    def name(self, row: int) -> str:
        group = self._group(row)
        return f"{group.path} row {row - group.of_file}"

    def read(self, row: int) -> bytes:
        with self._kept():
            if self._copies is None:
                self._copies = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115 - it goes with us
            if row in self._places:
                offset, size = self._places[row]
                self._copies.seek(offset)
                return self._copies.read(size)
        data = self._decode(row)
        with self._kept():
            offset = self._copies.seek(0, 2)
            self._copies.write(data)
            self._copies.flush()  # a full disk is told here, not for another picture
            self._places[row] = offset, len(data)
        return data

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            with readable_errors(self._scratch, "keep pictures in"):
                yield
        except ZskdError as error:
            raise ScratchError(str(error)) from error

    def _group(self, row: int) -> _Group:
        return self._groups[bisect_right(self._firsts, row) - 1]

    def _decode(self, row: int) -> bytes:
        group = self._group(row)
        if group is not self._reading or row < self._next:
            self._reading, self._values, self._next = group, self._stream(group), group.first
        try:
            value = next(islice(self._values, row - self._next, None), None)
            self._next = row + 1
            if value is None or not value.is_valid:
                raise ValueError("there is nothing in it")
        except _errors() as error:
            self._reading = None
            reason = one_line(error)
            raise ZskdError(f"{self.name(row)} is no readable picture ({reason})") from error
        buffer = value.as_buffer()
        check_size(buffer.size, self.name(row))
        data: bytes = buffer.to_pybytes()
        return data

    def _stream(self, group: _Group) -> Iterator[Any]:
        """Yield the values of a group, a few in the memory at a time."""
        if self._file is None or self._file[0] != group.path:
            self._file = group.path, _open(group.path)
        parts = self._file[1].iter_batches(
            batch_size=_ROWS, row_groups=[group.number], columns=[group.column], use_threads=False
        )
        for part in parts:
            column = part.column(0)
            yield from (
                column.flatten()[0] if hasattr(column, "flatten") and column.type.num_fields else column
            )


def _errors() -> tuple[type[BaseException], ...]:
    """Return what pyarrow raises for damaged files."""
    return (import_extra("pyarrow").ArrowException, OSError, ValueError, LookupError, MemoryError)


def _open(path: Path) -> Any:
    arrow = import_extra("pyarrow")
    from pyarrow import parquet

    try:  # a file of this machine, whatever its name looks like
        return parquet.ParquetFile(arrow.OSFile(str(path)), buffer_size=_BUFFER)
    except _errors() as error:
        reason = one_line(error)
        raise ZskdError(f"{path} is no readable Parquet file ({reason}): give one that is whole") from error


def _column(schema: Any, path: Path) -> str:
    """Return the path of the column of pictures."""
    found = dict[str, str]()
    for field in schema:
        if _is_bytes(field.type):
            found[field.name] = field.name
        elif _types().is_struct(field.type):
            inside = {child.name: child.type for child in field.type}
            if "bytes" in inside and _is_bytes(inside["bytes"]):
                found[field.name] = f"{field.name}.bytes"
    chosen = [name for name in _NAMES if name in found] or list(found)
    if not found:
        raise ZskdError(
            f"{path} has no column of pictures: give files with a column `image` of PNG or JPEG bytes"
        )
    if chosen[0] not in _NAMES and len(chosen) > 1:
        names = ", ".join(chosen)
        raise ZskdError(f"{path} has several columns of bytes ({names}): name the one of pictures `image`")
    return found[chosen[0]]


def _is_bytes(kind: Any) -> bool:
    return bool(_types().is_binary(kind) or _types().is_large_binary(kind))


def _types() -> Any:
    return import_extra("pyarrow").types
