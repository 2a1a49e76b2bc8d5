"""The processes that train one network together, and what they tell each other.

Each has all weights and a part of every batch. They are those of `torch.distributed`, which knows them by
numbers from 0, their ranks. Here and with `torchrun` a process is called by its rank.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from zskd.core.errors import ZskdError
from zskd.core.tensors import set_state

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """How many processes train one network together, and which of them this one is.

    All ranks call the same methods in the same order; a method that needs the others waits for them. A single
    rank sends nothing.
    """

    rank: int = 0
    """Of this process."""
    world: int = 1
    """Number of ranks."""
    here: int = 1
    """How many of them are on this machine."""

    @classmethod
    def joined(cls) -> Ranks:
        """Return the ranks of the default group of `torch.distributed`; a single rank without a group.

        With GPUs, the group needs a backend for tensors of the processor, too, as it has where none is named.
        """
        if not distributed.is_available() or not distributed.is_initialized():
            return cls()
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return cls(distributed.get_rank(), distributed.get_world_size(), here)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and reports progress."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.world > 1

    def part(self, count: int) -> slice:
        """Return which of the `count` rows of a batch are of this rank; parts differ by one row at most."""
        return slice(self.rank * count // self.world, (self.rank + 1) * count // self.world)

    def share(self, count: int) -> float:
        """Return the share of this rank in a batch of `count` rows, 0 to 1; all shares sum to 1."""
        part = self.part(count)
        return float((part.stop - part.start) / count)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sum over all ranks of each of some numbers, in one message; each rank has as many."""
        if not self.several:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with _others():
            distributed.all_reduce(total)
        summed: list[float] = total.tolist()
        return summed

    def average(self, values: Sequence[Tensor], share: float) -> None:
        """Replace tensors by their mean over all ranks, in place, in one message.

        A sum depends on a value's place in the message alone, so it is the same when it is repeated.

        Args:
            values: on one device, with the same shapes in all ranks.
            share: weight of this rank; those of all ranks sum to 1.
        """
        if not self.several or not values:
            return
        message = torch.cat([value.detach().reshape(-1) for value in values]).mul_(share)
        with _others():
            distributed.all_reduce(message)
        parts = torch.split(message, [one.numel() for one in values])
        for value, part in zip(values, parts, strict=True):
            value.detach().copy_(part.view(value.shape))

    def copy_first(self, module: nn.Module) -> None:
        """Give the module of each rank, in place, the weights and buffers that the first rank has."""
        if self.several:
            weights = self.once(lambda: {name: one.cpu() for name, one in module.state_dict().items()})
            set_state(module, weights)

    def once(self, work: Callable[[], T]) -> T:
        """Let the first rank do something, and return its result in all ranks; it is sent by pickle."""
        if not self.several:
            return work()
        made = [work()] if self.first else [None]
        with _others():
            distributed.broadcast_object_list(made, 0)
        (result,) = made
        return result  # type: ignore[return-value]

    def of_all(self, value: T) -> list[T]:
        """Return a value of each rank, in their order; they are sent by pickle."""
        if not self.several:
            return [value]
        values: list[T] = [value] * self.world
        with _others():
            distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.of_all(None)


ALONE = Ranks()
"""One process, as without `torchrun`."""


@contextmanager
def _others() -> Iterator[None]:
    """Raise a `ZskdError` where another rank has ended; no backend has an exception of its own for that."""
    try:
        yield
    except RuntimeError as error:
        raise ZskdError(
            "another process of this training has ended: give the same command again to resume"
        ) from error
