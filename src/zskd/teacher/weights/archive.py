"""Zip archives: torch's present format, TorchScript, torch.export, arrays of NumPy.

Their records are stored as they are, so a tensor is a region of the file. A compressed record of values is
refused: no program writes one, and four megabytes may unfold into four gigabytes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from zskd.core.reading import parse_json
from zskd.teacher.weights.gather import Candidates, gather
from zskd.teacher.weights.numpy_objects import is_plain, torch_dtype
from zskd.teacher.weights.pickles import read_inside_archive
from zskd.teacher.weights.stored import Region, StoredTensor, check_layout, extent, read_view, row_strides
from zskd.teacher.weights.torch_objects import obstacle

_EXPORT_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""Numbers of `ScalarType` in `torch/_export/serde/schema.py`."""
_LARGEST_TEXT = 1 << 28
"""Bytes of a record of JSON or of an inner archive of torch.export's first format."""


@dataclass(frozen=True)
class Contents:
    """What an archive or another file holds."""

    kind: str
    """Name of its format, for messages."""
    candidates: Candidates
    unnamed: int = 0
    """Tensors in lists."""
    names: tuple[str, ...] = ()
    """Classes and functions that it names; none was imported."""


class Archive:
    """A zip archive whose records are regions of a file."""

    def __init__(self, stream: BinaryIO | io.BytesIO, source: Path | bytes) -> None:
        """Read the directory.

        Raises:
            ValueError: the archive is cut off or damaged.
        """
        try:
            with zipfile.ZipFile(stream) as archive:
                self.records = {one.filename: one for one in archive.infolist()}
        except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
            raise ValueError("it is a zip archive without its end: copy or download it again") from error
        self.size = stream.seek(0, io.SEEK_END)
        self._stream, self._source = stream, source
        self.root = next((n.partition("/")[0] + "/" for n in self.records if n.endswith("/data.pkl")), "")

    def __contains__(self, name: str) -> bool:
        return name in self.records

    def region(self, name: str) -> Region:
        """Return where a record lies.

        Raises:
            ValueError: it is missing, compressed or encrypted, or reaches beyond the file.
        """
        record = self.records.get(name)
        if record is None:
            raise ValueError(f"its record {name[-80:]!r} is missing")
        if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
            raise ValueError("its tensors are compressed: save the weights again with torch.save")
        self._stream.seek(record.header_offset)
        head = self._stream.read(30)
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise ValueError(f"its record {name[-80:]!r} is damaged")
        start = (
            record.header_offset
            + 30
            + int.from_bytes(head[26:28], "little")
            + int.from_bytes(head[28:], "little")
        )
        if start + record.file_size > self.size:
            raise ValueError("its end is missing")
        return Region(self._source, start, record.file_size)

    def read(self, name: str) -> bytes:
        """Return a record.

        Raises:
            ValueError: as `region` does.
        """
        region = self.region(name)
        return bytes(region.read(0, region.size))


def read_archive(stream: BinaryIO | io.BytesIO, source: Path | bytes) -> Contents:
    """Read a zip archive.

    Args:
        stream: the archive.
        source: its file, or the bytes themselves.

    Raises:
        ValueError: it is damaged, or holds no weights of a known kind; the message says what it is.
    """
    archive = Archive(stream, source)
    for is_kind, read in _KINDS:
        if is_kind(archive):
            return read(archive)
    if any(name.endswith(".data/extern_modules") for name in archive.records):
        raise ValueError(
            "it is an archive of torch.package, which needs its code: save model.state_dict() instead"
        )
    if "model.weights.h5" in archive:
        raise ValueError("it is a network of Keras, not of torch: export it to ONNX and give onnx:FILE")
    inside = ", ".join(repr(name[-40:]) for name in list(archive.records)[:3]) or "nothing"
    raise ValueError(
        f"it is a zip archive with {inside} inside, not weights: unpack it and give what is inside"
    )


def _read_torch(archive: Archive) -> Contents:
    """Read `data.pkl` with its storages, of `torch.save` or `torch.jit.save`."""
    root = archive.root
    if archive.read(f"{root}byteorder") == b"big" if f"{root}byteorder" in archive else False:
        raise ValueError("it was written by a big-endian machine")
    script = f"{root}constants.pkl" in archive
    found = read_inside_archive(
        archive.read(f"{root}data.pkl"), lambda key: archive.region(f"{root}data/{key}")
    )
    inside = gather(found.tree)
    kind = "TorchScript archive" if script else "torch archive"
    if script and not inside.candidates:
        raise ValueError(
            "it is a TorchScript archive without parameters (frozen or quantised): give the original"
        )
    return Contents(kind, inside.candidates, inside.unnamed, () if script else found.names)


def _read_export(archive: Archive) -> Contents:
    """Read the weights of a torch.export archive: a table of names in JSON, and a record for each."""
    name = next(name for name in archive.records if name.endswith("_weights_config.json"))
    folder = name.rpartition("/")[0]
    table = _json(archive, name).get("config")
    if not isinstance(table, dict):
        raise ValueError("its table of weights is damaged")
    tensors = {key: _exported(archive, folder, entry) for key, entry in table.items()}
    return Contents("torch.export archive", {"": tensors} if tensors else {})


def _exported(archive: Archive, folder: str, entry: Any) -> StoredTensor:
    try:
        record, meta = f"{folder}/{entry['path_name']}", entry["tensor_meta"]
        dtype = _EXPORT_DTYPES[meta["dtype"]]
        shape, stride = (tuple(one["as_int"] for one in meta[key]) for key in ("sizes", "strides"))
        first = meta["storage_offset"]["as_int"]
        subclass = bool(entry.get("use_pickle"))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("its table of weights is damaged") from error
    check_layout(shape, stride, first)
    if subclass:
        return StoredTensor(shape, dtype, lambda: torch.empty(0), "is a tensor of a subclass")
    region = archive.region(record)
    if (first + extent(shape, stride)) * dtype.itemsize > region.size:
        raise ValueError("a tensor is larger than its part of the file")
    return StoredTensor(
        shape, dtype, lambda: read_view(region, first * dtype.itemsize, dtype, shape, stride), obstacle(dtype)
    )


def _read_first_export(archive: Archive) -> Contents:
    """Read torch.export's format before torch 2.8: an archive of `torch.save` inside the archive."""
    name = next(n for n in archive.records if n.rpartition("/")[2] == "serialized_state_dict.pt")
    data = _unpacked(archive, name)
    inner = read_archive(io.BytesIO(data), data)
    return Contents("torch.export archive", inner.candidates)


def _json(archive: Archive, name: str) -> dict[str, Any]:
    try:
        value = parse_json(archive.read(name))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its record {name[-80:]!r} is damaged") from error
    if not isinstance(value, dict):
        raise ValueError(f"its record {name[-80:]!r} is damaged")
    return value


def _unpacked(archive: Archive, name: str) -> bytes:
    """Return a record that may be compressed."""
    if archive.records[name].file_size > min(_LARGEST_TEXT, 1000 * archive.size):
        raise ValueError("its weights unfold into more than the file may hold")
    with zipfile.ZipFile(archive._stream) as whole:
        try:
            return whole.read(name)
        except Exception as error:  # zlib, CRC and encryption fail in many ways
            raise ValueError(f"its record {name[-80:]!r} is damaged") from error


def _read_arrays(archive: Archive) -> Contents:
    """Read an `.npz`: every record is an array with a header. Names of classes may lie beside the weights."""
    arrays = {name.removesuffix(".npy"): _array(archive, name) for name in archive.records}
    tensors = {name: array for name, array in arrays.items() if array is not None}
    if not tensors:
        raise ValueError(
            "it is a NumPy archive with no array of plain numbers: save the weights with "
            "numpy.savez(file, **named_arrays)"
        )
    return Contents("NumPy archive", {"": tensors})


def _array(archive: Archive, name: str) -> StoredTensor | None:
    """Read the header of an array; None: it holds no plain numbers."""
    try:
        with zipfile.ZipFile(archive._stream) as whole, whole.open(name) as stream:
            version = np.lib.format.read_magic(stream)
            reader = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, by_columns, dtype = reader(stream)
            start = stream.tell()
        if not is_plain(dtype.str):
            return None
        check_layout(shape, shape, 0)
        kind = torch_dtype(dtype)
    except Exception as error:  # damaged zip, deflate stream or header
        raise ValueError(f"its record {name[-80:]!r} is no array of plain numbers") from error
    count = extent(shape, row_strides(shape))

    def read() -> torch.Tensor:
        archive_stream: Any = (
            archive._source if isinstance(archive._source, Path) else io.BytesIO(archive._source)
        )
        try:
            with zipfile.ZipFile(archive_stream) as whole, whole.open(name) as stream:
                stream.read(start)
                flat = np.frombuffer(stream.read(count * dtype.itemsize), dtype)
            ordered = flat.reshape(shape, order="F" if by_columns else "C")
            return torch.from_numpy(np.array(ordered, dtype.newbyteorder("="), order="C"))
        except Exception as error:  # damaged zip or deflate stream
            raise ValueError(f"its record {name[-80:]!r} is damaged") from error

    return StoredTensor(shape, kind, read)


def _has(end: str) -> Callable[[Archive], bool]:
    return lambda archive: any(name.endswith(end) for name in archive.records)


_KINDS: tuple[tuple[Callable[[Archive], bool], Callable[[Archive], Contents]], ...] = (
    (_has("_weights_config.json"), _read_export),
    (_has("serialized_state_dict.pt"), _read_first_export),
    (lambda archive: f"{archive.root}data.pkl" in archive, _read_torch),
    (
        lambda archive: bool(archive.records) and all(n.endswith(".npy") for n in archive.records),
        _read_arrays,
    ),
)
