"""The batches of a training: their order, and a helper process that prepares them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from zskd.core.device import keep_freed_memory
from zskd.core.errors import ZskdError
from zskd.core.parallel import Lifeline, hold_on, new_processes
from zskd.core.rng import torch_stream

_AHEAD = 4
"""So many batches are kept ready."""
Batch = tuple[Tensor, ...]
"""Images, and what is known of them that the loss asks for."""
Prepare = Callable[[Tensor, Generator], Batch]
"""(rows of the training set, random numbers of this step) → batch, whatever the network has become."""


class Order:
    """An endless chain of random orders of all images, cut into full batches that may span two passes."""

    def __init__(self, batch: int, images: int, seed: int) -> None:
        self._batch, self._images, self._seed = batch, images, seed
        self._turn, self._shuffled = -1, torch.empty(0, dtype=torch.int64)

    def rows(self, step: int) -> Tensor:
        """Return the rows of one batch, whatever was asked before."""
        position, end = step * self._batch, (step + 1) * self._batch
        parts = []
        while position < end:
            turn, offset = divmod(position, self._images)
            if turn != self._turn:
                stream = torch_stream(self._seed, "order", turn)
                self._turn, self._shuffled = turn, torch.randperm(self._images, generator=stream)
            parts.append(self._shuffled[offset : offset + end - position])
            position += len(parts[-1])
        return torch.cat(parts)


class Batches(Dataset[Batch]):
    """The batch of every step, each a pure function of the step's number."""

    def __init__(self, order: Order, prepare: Prepare, seed: int) -> None:
        self._order, self._prepare, self._seed = order, prepare, seed

    def __getitem__(self, step: int) -> Batch:
        return self._prepare(self._order.rows(step), torch_stream(self._seed, "step", step))


def prepared(batches: Batches, steps: range, helper: bool) -> Iterator[Batch]:
    """Give the batches of the steps in turn, made by a helper while the network learns or here."""
    if not helper:
        yield from map(batches.__getitem__, steps)
        return
    context = new_processes()
    lifeline = Lifeline(context)
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        num_workers=1,
        prefetch_factor=_AHEAD,
        multiprocessing_context=context,
        worker_init_fn=partial(_begin_helper, torch.get_num_threads(), lifeline.end),
    )
    try:
        yield from map(tuple, loader)  # they come as lists
    except (RuntimeError, EOFError, OSError) as error:
        # the pool says so, or the tensors that the helper shared are gone with it; "Caught" begins an error
        # of its own
        if str(error).startswith("Caught") or (
            type(error) is RuntimeError and "DataLoader" not in str(error)
        ):
            raise
        raise ZskdError(
            "the process that makes batches ready was killed (too little memory, perhaps): give the command "
            "again and it goes on, or give --workers 1"
        ) from error
    finally:
        lifeline.cut()


def _begin_helper(threads: int, lifeline: Connection, _number: int) -> None:
    hold_on(lifeline)
    torch.set_num_threads(threads)
    keep_freed_memory()
