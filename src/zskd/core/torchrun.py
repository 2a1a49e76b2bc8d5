"""Processes that `torchrun` starts: which one this is, how they find each other, and who tells an error.

Imports no torch, because most commands are started without it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from zskd.core.errors import ZskdError, one_line

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""That `torchrun` sets for each process, and `torch.distributed` reads."""
_LONGEST = timedelta(days=7)
"""That a rank waits for another, which may prepare the training; the end of one ends the wait."""


class _Store(Protocol):
    """Of `torch.distributed`; `torchrun` itself holds it, so that it outlives the ranks."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a number that begins with 0, and return it."""


@dataclass
class Launch:
    """How this process was started: alone, or as one of several ranks."""

    rank: int = 0
    world: int = 1
    _store: _Store | None = field(default=None, init=False)
    """What all ranks can reach, from when they have joined."""

    @classmethod
    def of_environment(cls) -> Launch:
        """Return what the environment variables of `torchrun` tell.

        Raises:
            ZskdError: they are no numbers.
        """
        if not all(os.environ.get(name) for name in _VARIABLES):
            return cls()
        return cls(_number("RANK"), _number("WORLD_SIZE"))

    @property
    def several(self) -> bool:
        """Whether there are other ranks."""
        return self.world > 1

    def join(self) -> None:
        """Wait for all ranks and let `torch.distributed` know them; each takes a GPU where there are any.

        Raises:
            ZskdError: the others cannot be reached, or have no GPU each.
        """
        import torch
        from torch import distributed

        if not distributed.is_available():
            raise ZskdError("this PyTorch was built without torch.distributed: install another one")
        if torch.cuda.is_available():
            place, gpus = _number("LOCAL_RANK"), torch.cuda.device_count()
            if place >= gpus:
                raise ZskdError(
                    "torchrun starts more processes than this machine has GPUs: give --nproc-per-node "
                    f"{gpus}, or CUDA_VISIBLE_DEVICES= to train on processors"
                )
            torch.cuda.set_device(place)
        try:
            store, rank, world = next(distributed.rendezvous("env://"))  # type: ignore[attr-defined]
            self._store = distributed.PrefixStore("zskd", store)  # type: ignore[attr-defined]
            distributed.init_process_group(store=store, rank=rank, world_size=world, timeout=_LONGEST)
        except (RuntimeError, ValueError) as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise ZskdError(
                f"the processes of torchrun do not find each other at {address} ({one_line(error)}): check "
                "--rdzv-endpoint and the network"
            ) from error

    def leave(self) -> None:
        """Leave the group; the others may still be at work."""
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()

    def tells(self) -> bool:
        """Return whether this process is to tell why all end: the first one that asks."""
        if not self.several:
            return True
        if self._store is None:
            return self.rank == 0
        try:
            return self._store.add("told", 1) == 1
        except RuntimeError:  # whoever held the store is gone
            return True


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError) as error:
        raise ZskdError(f"the environment variable {name} is no number: torchrun sets it") from error
