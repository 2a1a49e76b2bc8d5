"""What names in a pickle of torch mean, as far as they mean data: storages, tensors, plain containers.

Argument lists are those of the functions of torch with these names (`torch/_utils.py`, `torch/_tensor.py`,
`torch/storage.py`), which are not called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from zskd.teacher.weights.machine import Machine, Meaning, Stub
from zskd.teacher.weights.stored import Region, StoredTensor, check_layout, extent, read_view, row_strides

_STORAGE_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "QInt8Storage": torch.qint8,
    "QUInt8Storage": torch.quint8,
    "QInt32Storage": torch.qint32,
    "QUInt4x2Storage": torch.quint4x2,
    "QUInt2x4Storage": torch.quint2x4,
    "UntypedStorage": torch.uint8,
}
"""Class of a storage, on any device -> number type."""


@dataclass
class Memory:
    """What several storages may share: so many bytes, and where in the file they lie."""

    size: int
    region: Region | None = None
    """None while the file has not been read that far."""


@dataclass(frozen=True)
class Storage:
    """A typed part of a memory."""

    memory: Memory
    dtype: torch.dtype
    first: int
    """Its first byte."""
    size: int
    """Its bytes."""


def read_dtype(stub: Any) -> torch.dtype:
    """Return the number type that a stub (`torch.float32`) names.

    Raises:
        ValueError: it names none.
    """
    name = stub.name.removeprefix("torch.") if isinstance(stub, Stub) else ""
    found = _DTYPES.get(name)
    if found is None:
        raise ValueError("a tensor has an unknown number type")
    return found


_DTYPES = {
    str(one).removeprefix("torch."): one for one in vars(torch).values() if isinstance(one, torch.dtype)
}


def storage_dtype(kind: Any) -> torch.dtype:
    """Return the number type of a storage class.

    Raises:
        ValueError: it is none.
    """
    name = kind.name.rpartition(".")[2] if isinstance(kind, Stub) else ""
    found = _STORAGE_TYPES.get(name)
    if found is None:
        raise ValueError("a storage has an unknown number type")
    return found


def _tensor(
    storage: Any, first: Any, shape: Any, stride: Any, dtype: torch.dtype | None = None
) -> StoredTensor:
    """Return a view of a storage.

    Raises:
        ValueError: it is larger than the storage.
    """
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no storage")
    kind = dtype or storage.dtype
    check_layout(shape, stride, first)
    if (first + extent(shape, stride)) * kind.itemsize > storage.size:
        raise ValueError("a tensor is larger than its storage")
    start = storage.first + first * kind.itemsize

    def read() -> torch.Tensor:
        region = storage.memory.region
        if region is None:
            raise ValueError("the values of a tensor are missing")
        return read_view(region, start, kind, shape, stride)

    return StoredTensor(tuple(shape), kind, read, obstacle(kind))


def obstacle(dtype: torch.dtype) -> str | None:
    """Return why numbers of a type are no weights; None: they may be."""
    if dtype in (torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4):
        return "is quantised"
    if dtype.is_floating_point and dtype.itemsize < 2:
        return f"holds {dtype}"
    return None


def _without_values(shape: Any, dtype: torch.dtype, why: str) -> StoredTensor:
    check_layout(shape, row_strides(shape), 0)
    return StoredTensor(tuple(shape), dtype, lambda: torch.empty(0), why)


def _plain(_: Machine, given: tuple[Any, ...]) -> StoredTensor:
    return _tensor(*given[:4])


def _typed(_: Machine, given: tuple[Any, ...]) -> StoredTensor:
    storage, first, shape, stride = given[:4]
    return _tensor(storage, first, shape, stride, read_dtype(given[6]))


def _quantised(_: Machine, given: tuple[Any, ...]) -> StoredTensor:
    return replace(_tensor(*given[:4]), obstacle="is quantised")


def _meta(_: Machine, given: tuple[Any, ...]) -> StoredTensor:
    return _without_values(given[1], read_dtype(given[0]), "has a shape but no values (device meta)")


def _sparse(_: Machine, given: tuple[Any, ...]) -> StoredTensor:
    return _without_values(given[1][2], torch.float32, "is sparse")


def _first(_: Machine, given: tuple[Any, ...]) -> Any:
    return given[0]


def _of_a_type(machine: Machine, given: tuple[Any, ...]) -> Any:
    """A tensor of a subclass: the function and its arguments."""
    function, _, arguments = given[:3]
    known = isinstance(function, Stub) and function.name in _TENSORS and isinstance(arguments, tuple)
    return _TENSORS[function.name](machine, arguments) if known else Stub("torch.Tensor", given)


def _dict(machine: Machine, given: tuple[Any, ...]) -> dict[str, Any]:
    """`dict`, `OrderedDict(pairs)`; the standard library writes their entries mostly behind."""
    pairs = given[0] if given and isinstance(given[0], list) else []
    machine.spend(len(pairs))
    return {str(key): value for key, value in pairs if isinstance(key, str | int)}


def _list(_: Machine, given: tuple[Any, ...]) -> Any:
    return given[0] if given and isinstance(given[0], list | tuple) else []


def _bytes(machine: Machine, given: tuple[Any, ...]) -> bytes:
    """`_codecs.encode(text, "latin1")`, as protocol 2 writes bytes; `bytes()`."""
    if not given:
        return b""
    machine.spend(len(given[0]))
    return given[0].encode("latin-1") if isinstance(given[0], str) else bytes(memoryview(given[0]))


_TENSORS: dict[str, Meaning] = {
    "torch._utils._rebuild_tensor": _plain,
    "torch._utils._rebuild_tensor_v2": _plain,
    "torch._utils._rebuild_tensor_v3": _typed,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_device_tensor_from_numpy": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_xla_tensor": _first,
}
_BUILTINS = ("builtins", "__builtin__")
"""Of Python 3 and 2."""


def torch_meanings(load_storage: Callable[[Machine, bytes], Storage]) -> dict[str, Meaning]:
    """Return the names that mean data.

    Args:
        load_storage: reads the bytes that `pickle.dump` writes for a storage.
    """
    return {
        **_TENSORS,
        "torch._tensor._rebuild_from_type": _of_a_type,
        "torch._tensor._rebuild_from_type_v2": _of_a_type,
        "torch.storage._load_from_bytes": lambda machine, given: load_storage(
            machine, _bytes(machine, given)
        ),
        "torch.Size": _list,
        "collections.OrderedDict": _dict,
        "collections.defaultdict": _dict,
        "_codecs.encode": _bytes,
        **{f"{module}.dict": _dict for module in _BUILTINS},
        **{
            f"{module}.{name}": _list
            for module in _BUILTINS
            for name in ("list", "set", "frozenset", "tuple")
        },
        **{f"{module}.{name}": _bytes for module in _BUILTINS for name in ("bytes", "bytearray")},
    }
