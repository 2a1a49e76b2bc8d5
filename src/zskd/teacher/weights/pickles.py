"""Pickles with tensors: torch's formats before 1.6 (one file) and since (in an archive), and plain pickles.

The old format is five pickles (a magic number, a version, facts of the machine, the object, the keys of its
storages), then the storages, each with the number of its values before it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zskd.teacher.weights.machine import Machine, Stream
from zskd.teacher.weights.numpy_objects import NUMPY_MEANINGS
from zskd.teacher.weights.stored import Region
from zskd.teacher.weights.torch_objects import Memory, Storage, storage_dtype, torch_meanings

_MAGIC = 0x1950A86A20F9469CFC6C
"""First value of a file in the old format of torch."""
_COPIES = 2
"""Times that a pickle may copy its own bytes: text to bytes, and bytes to a storage."""
_ITEM_SIZES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Unpickled:
    """What a pickle holds."""

    tree: Any
    """Nested lists, dicts, stubs and stored tensors."""
    names: tuple[str, ...]
    """Classes and functions that it names, besides those of plain data."""
    old_torch: bool = False
    """Whether it is in torch's old format."""


def read_inside_archive(data: bytes, locate: Callable[[str], Region]) -> Unpickled:
    """Read `data.pkl` of a torch archive.

    Args:
        data: the pickle.
        locate: key of a storage -> its record.

    Raises:
        ValueError: it is damaged, or a storage is larger than its record.
    """
    memories: dict[str, Memory] = {}

    def persistent(name: Any) -> Storage:
        key, size, dtype = _storage_name(name)
        if key not in memories:
            region = locate(key)
            memories[key] = Memory(region.size, region)
        if size > memories[key].size:
            raise ValueError("a storage is larger than its part of the file")
        return Storage(memories[key], dtype, 0, size)

    machine = Machine(_MEANINGS, persistent, most_bytes=_COPIES * len(data))
    return Unpickled(machine.run(io.BytesIO(data)), tuple(machine.names))


def read_pickle(stream: Stream, source: Path | bytes, size: int, *, nested: bool = False) -> Unpickled:
    """Read a plain pickle, or a file in the old format of torch.

    Args:
        stream: at its beginning.
        source: where the values will be read.
        size: of both in bytes.
        nested: whether it lies inside another pickle; then it holds no further one.

    Raises:
        ValueError: it is damaged or cut off.
    """
    memories: dict[str, Memory] = {}

    def persistent(name: Any) -> Any:
        if isinstance(name, tuple) and name[:1] == ("module",):
            return name[1]  # a class with its source code
        key, bytes_, dtype = _storage_name(name)
        memory = memories.setdefault(key, Memory(bytes_))
        view = name[5] if len(name) > 5 else None
        first, length = (view[1] * dtype.itemsize, view[2] * dtype.itemsize) if view else (0, bytes_)
        if min(first, length) < 0 or first + length > memory.size:
            raise ValueError("a storage is larger than its part of the file")
        return Storage(memory, dtype, first, length)

    def start() -> Machine:
        return Machine(_MEANINGS if not nested else _MEANINGS_INSIDE, persistent, most_bytes=_COPIES * size)

    machine = start()
    tree = machine.run(stream)
    if not (type(tree) is int and tree == _MAGIC):
        return Unpickled(tree, tuple(machine.names))
    start().run(stream)  # the version
    facts = start().run(stream)
    if isinstance(facts, dict) and facts.get("little_endian") is False:
        raise ValueError("it was written by a big-endian machine")
    machine = start()
    tree = machine.run(stream)
    _find_values(start().run(stream), memories, stream, source, size)
    return Unpickled(tree, tuple(machine.names), old_torch=True)


def _find_values(
    keys: Any, memories: dict[str, Memory], stream: Stream, source: Path | bytes, size: int
) -> None:
    """Note where each memory lies: behind the pickles, one after the other."""
    place = stream.tell()
    whole = Region(source, 0, size)
    for key in keys if isinstance(keys, list) else ():
        memory = memories.get(str(key))
        if memory is None:
            raise ValueError("it has values of an unknown storage")
        if place + 8 > size:
            raise ValueError("its end is missing")
        values = int.from_bytes(whole.read(place, 8), "little")
        if memory.size not in {values * n for n in _ITEM_SIZES}:
            raise ValueError("a storage is larger or smaller than its values")
        memory.region = Region(source, place + 8, memory.size)
        place += 8 + memory.size
        if place > size:
            raise ValueError("its end is missing")


def _storage_name(name: Any) -> tuple[str, int, Any]:
    """Return key, bytes and number type of a storage from its persistent id."""
    if not isinstance(name, tuple) or len(name) < 5 or name[0] not in ("storage", b"storage"):
        raise ValueError("it refers to an object outside of the file")
    dtype = storage_dtype(name[1])
    if type(name[4]) is not int or not 0 <= name[4] < 2**60:
        raise ValueError("a storage has an impossible size")
    return str(name[2]), name[4] * dtype.itemsize, dtype


def _load_storage(_: Machine, data: bytes) -> Storage:
    """Read the storage that `pickle.dump` wrote as a file of torch inside the pickle."""
    found = read_pickle(io.BytesIO(data), data, len(data), nested=True)
    if not isinstance(found.tree, Storage):
        raise ValueError("a storage is damaged")
    return found.tree


def _refuse(_: Machine, data: bytes) -> Storage:
    raise ValueError("a storage lies inside another one")


_MEANINGS = torch_meanings(_load_storage) | NUMPY_MEANINGS
_MEANINGS_INSIDE = torch_meanings(_refuse) | NUMPY_MEANINGS
