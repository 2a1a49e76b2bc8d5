"""What names in a pickle of NumPy mean, as far as they mean data: arrays, number types, single numbers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from zskd.teacher.weights.machine import Built, Machine, Meaning
from zskd.teacher.weights.stored import StoredTensor, check_layout

_NUMBER = re.compile(r"[<>=|]?([fiu][1248]|b1)")
"""Codes of plain numbers: float, integer, unsigned integer, boolean, with bytes."""


class NumpyType(Built):
    """A number type."""

    def __init__(self, code: str) -> None:
        self.code = code

    def build(self, state: Any) -> None:
        """Take the byte order, the second of the values."""
        order = state[1]
        if order == ">":
            self.code = order + self.code.lstrip("<>=|")

    def dtype(self) -> np.dtype[Any]:
        """Return the type.

        Raises:
            ValueError: it is no plain number.
        """
        return plain_dtype(self.code)


def is_plain(code: str) -> bool:
    """Return whether the code of a type, such as `<f4`, stands for plain numbers."""
    return _NUMBER.fullmatch(code) is not None


def plain_dtype(code: str) -> np.dtype[Any]:
    """Return the type of a code such as `<f4`.

    Raises:
        ValueError: it is no plain number.
    """
    if not is_plain(code):
        raise ValueError("an array holds no plain numbers")
    return np.dtype(code)


class NumpyArray(Built):
    """An array; its values stay the bytes of the pickle."""

    def __init__(self) -> None:
        self.state: tuple[Any, ...] | None = None

    def build(self, state: Any) -> None:
        """Take version, shape, type, order and bytes."""
        self.state = state if isinstance(state, tuple) and len(state) == 5 else None

    def stored(self) -> StoredTensor | None:
        """Return the array as a tensor; None: it holds no plain numbers."""
        if self.state is None or not isinstance(self.state[2], NumpyType):
            return None
        _, shape, kind, by_columns, values = self.state
        try:
            dtype = kind.dtype()
            data = values.encode("latin-1") if isinstance(values, str) else values
            check_layout(shape, shape, 0)
            return array_tensor(data, shape, dtype, by_columns=bool(by_columns))
        except (ValueError, TypeError):
            return None


def array_tensor(
    data: bytes | bytearray, shape: tuple[int, ...], dtype: np.dtype[Any], *, by_columns: bool
) -> StoredTensor:
    """Return the bytes of an array as a tensor.

    Raises:
        ValueError: the number of bytes is not that of the shape.
        TypeError: torch has no such type.
    """
    flat = np.frombuffer(data, dtype)
    count = 1
    for n in shape:
        count *= n
    if count != len(flat):
        raise ValueError("an array is larger or smaller than its values")

    def read() -> torch.Tensor:
        native = flat.reshape(shape, order="F" if by_columns else "C").astype(dtype.newbyteorder("="))
        return torch.from_numpy(np.ascontiguousarray(native).reshape(shape))

    return StoredTensor(tuple(shape), torch_dtype(dtype), read)


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Return torch's type for a NumPy type.

    Raises:
        TypeError: there is none.
    """
    return torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype


def _reconstruct(_: Machine, given: tuple[Any, ...]) -> NumpyArray:
    return NumpyArray()


def _type(_: Machine, given: tuple[Any, ...]) -> NumpyType:
    return NumpyType(given[0] if isinstance(given[0], str) else "O")


def _from_buffer(_: Machine, given: tuple[Any, ...]) -> NumpyArray:
    values, dtype, shape, order = given
    array = NumpyArray()
    array.build((1, shape, dtype, order == "F", values))
    return array


def _number(_: Machine, given: tuple[Any, ...]) -> None:
    """A single number, such as the best accuracy: no weights."""


_HOMES = ("numpy.core", "numpy._core")
"""Before and since NumPy 2."""
NUMPY_MEANINGS: dict[str, Meaning] = {
    "numpy.dtype": _type,
    **{f"{home}.multiarray._reconstruct": _reconstruct for home in _HOMES},
    **{f"{home}.multiarray.scalar": _number for home in _HOMES},
    **{f"{home}.numeric._frombuffer": _from_buffer for home in _HOMES},
}
