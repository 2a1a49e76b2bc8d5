"""A device that computes on the CPU and counts where a program would wait for a GPU.

Its tensors are of the device type `fakegpu`, which torch knows as any other: modules are moved to it,
autograd runs through it, and tensors of different devices do not mix. The CPU does every operation, so that
results are those of the CPU, bit for bit.

As on a GPU, to read a number, a whole tensor or which entries of a mask are true waits for all work given to
the device, and so does a copy to it from memory that is not pinned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from zskd.core import device as own

NAME = "fakegpu"
_READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "bincount"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
_COPIES = {"_to_copy", "copy_"}


_AUTOCAST = "AutocastPrivateUse1"
_LIBRARY, _ATEN = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")


class _Module:
    """What torch asks of a device for random numbers and mixed precision."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        pass

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]


@cache
def _registered() -> torch.device:
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    _LIBRARY.fallback(torch.library.fallthrough_kernel, _AUTOCAST)
    for operation in (torch.ops.aten.linear, torch.ops.aten.conv2d):
        _ATEN.impl(operation.default, partial(_in_bfloat16, operation), _AUTOCAST)
    return torch.device(NAME, 0)


def _in_bfloat16(operation: Any, *args: Any) -> Any:
    """What autocast does on a GPU with convolutions and matrix products."""
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
        return operation(*(one.bfloat16() if isinstance(one, Tensor) else one for one in args))


class Held(Tensor):
    """A tensor of the device; `values` are on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> Held:
        made = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=_registered(),
        )
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation of the device on the CPU."""
    name, target = func.overloadpacket.__name__, kwargs.get("device")
    leaves_device = target is not None and torch.device(target).type == "cpu"
    known: dict[int, Held] = {}
    others: list[Tensor] = []

    def plain(value: Any) -> Any:
        if isinstance(value, Held):
            known[id(value.values)] = value
            return value.values
        if isinstance(value, Tensor) and value.ndim:
            others.append(value)
        return value

    def held(value: Any) -> Any:
        """Return the given tensor where the operation changed it in place."""
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else Held(value)

    own_args = _each(plain, args)
    own_kwargs = {key: _each(plain, value) for key, value in kwargs.items()}
    may_mix = name in _COPIES or (name in _INDEXING and all(one.dtype == torch.int64 for one in others))
    if known and others and not may_mix:
        raise RuntimeError(f"{func.name()} has tensors on the CPU and on {NAME}")
    if target is not None:
        own_kwargs["device"] = torch.device("cpu")
    found = func(*own_args, **own_kwargs)
    if leaves_device:
        return found
    if name == "copy_":  # also from the device
        return args[0]
    return _each(held, found)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """Return nested lists and tuples with all values changed."""
    if isinstance(value, list | tuple):
        return type(value)([_each(change, one) for one in value])
    return change(value)


class Waits(TorchDispatchMode):
    """Makes tensors of the device where they are asked for, and counts the operations that wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._pinned: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if name == "is_pinned":
            return id(args[0]) in self._pinned
        if name == "_pin_memory":
            copy = args[0].clone()
            self._pinned[id(copy)] = copy  # kept, so that no other tensor gets its number
            return copy
        target = kwargs.get("device")
        there = target is not None and torch.device(target).type == NAME
        if not there and Held not in types:
            return func(*args, **kwargs)
        if why := self._why_waits(name, args, kwargs, there):
            self.counts[why] += 1
        return _run(func, args, kwargs)

    def _why_waits(self, name: str, args: Any, kwargs: dict[str, Any], there: bool) -> str | None:
        if name in _READS:
            return name
        if name in _INDEXING:
            masked = any(isinstance(one, Tensor) and one.dtype == torch.bool for one in args[1])
            return f"{name} by a mask" if masked else None
        if name not in _COPIES:
            return None
        source, sink = (args[1], isinstance(args[0], Held)) if name == "copy_" else (args[0], there)
        from_device = isinstance(source, Held)
        to_device = sink if name == "copy_" or "device" in kwargs else from_device
        if from_device and not to_device:
            return "copy from the device"
        direct = id(source) in self._pinned and bool(kwargs.get("non_blocking"))
        return "copy to the device" if to_device and not from_device and not direct else None


@contextmanager
def fake_device() -> Iterator[tuple[torch.device, Waits]]:
    """Yield the device, which exists inside the block alone, and what waits for it."""
    device = _registered()
    with pytest.MonkeyPatch.context() as patched, Waits() as waits:
        patched.setattr(own, "_PINNED", frozenset({NAME}))
        yield device, waits
