"""A limit for the memory of a network that a card describes: no more than its file of weights can fill."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zskd.core.errors import ZskdError

_BESIDE = 1 << 27
"""Numbers that a network may hold without having them in its file, such as tables of positions."""
_TIMES = 4
"""A network may be drawn more often than once until it is built."""


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses, inside its block, tensors that are larger than a file of weights can fill.

    Args:
        stored: the tensors of the file.
        least: numbers that may be made even so: those of the network that a smaller copy is cut from.
    """

    def __init__(self, stored: Iterable[Tensor], *, least: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._left = max(least, _TIMES * sum(one.numel() for one in stored) + _BESIDE)

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation, unless it makes a new tensor for which nothing is left.

        Raises:
            ZskdError: it does.
        """
        given = kwargs or {}
        if not any(isinstance(one, Tensor) for one in (*args, *given.values())):
            self._spend(args, given)
        return function(*args, **given)

    def _spend(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        if given.get("device") == torch.device("meta"):
            return
        sizes = args[0] if args and isinstance(args[0], list | tuple) else given.get("size")
        numbers = sizes if sizes is not None else [one for one in args if isinstance(one, int)]
        if all(isinstance(one, int) for one in numbers):
            count = math.prod(numbers) if sizes is not None else max(map(abs, numbers), default=0)
            self._left -= count
            if self._left < 0:
                raise ZskdError(
                    "the network of the card is larger than its weights: copy the whole folder again"
                )
