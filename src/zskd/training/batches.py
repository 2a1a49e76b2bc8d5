"""The batches of a training: their order, and a helper process that prepares them."""

from __future__ import annotations

import pickle
from collections import abc
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from zskd.core.errors import ZskdError
from zskd.core.memory import keep_freed_memory
from zskd.core.parallel import Lifeline, hold_on, new_processes
from zskd.core.passes import Tally, count_elsewhere, counting
from zskd.core.rng import torch_stream

_AHEAD = 4
"""Number of batches that the helper prepares in advance."""
Batch = tuple[Tensor, ...]
"""Images, and further tensors that the loss needs, such as labels."""
Prepare = Callable[[Tensor, Generator], Batch]
"""(rows of the training set, generator of this step) → batch; independent of the network."""


class RowOrder(Protocol):
    """Which rows of the training set the batch of each step has."""

    def rows(self, step: int) -> Tensor:
        """Return the rows (B,) of the batch of a step, whatever was asked before."""


class Order:
    """An endless sequence of random orders of all images, cut into full batches that may span two passes.

    Args:
        batch: images in a batch.
        images: images in the training set.
        seed: of the orders.
        one_pass: returns the rows (N,) of a pass by its number; None: all in a random order.
    """

    def __init__(
        self, batch: int, images: int, seed: int, one_pass: Callable[[int], Tensor] | None = None
    ) -> None:
        self._batch, self._images = batch, images
        self._one_pass = one_pass or partial(_shuffled, images, seed)
        self._pass, self._rows = -1, torch.empty(0, dtype=torch.int64)

    def rows(self, step: int) -> Tensor:
        """Return the rows (B,) of the batch of a step; independent of earlier calls."""
        position, end = step * self._batch, (step + 1) * self._batch
        parts = []
        while position < end:
            number, offset = divmod(position, self._images)
            if number != self._pass:
                self._pass, self._rows = number, self._one_pass(number)
            parts.append(self._rows[offset : offset + end - position])
            position += len(parts[-1])
        return torch.cat(parts)


def _shuffled(images: int, seed: int, number: int) -> Tensor:
    return torch.randperm(images, generator=torch_stream(seed, "order", number))


class Batches(Dataset[Batch]):
    """The batch of each step, a pure function of the number of the step."""

    def __init__(self, order: RowOrder, prepare: Prepare, seed: int) -> None:
        self._order, self._prepare, self._seed = order, prepare, seed

    def __getitem__(self, step: int) -> Batch:
        return self._prepare(self._order.rows(step), torch_stream(self._seed, "step", step))


class _CountedBatches(Dataset[tuple[Batch | bytes | ZskdError, Tally]]):
    """Batches with the passes that each of them took, for another process: it returns its one-line errors."""

    def __init__(self, batches: Batches) -> None:
        self._batches, self._shares = batches, True

    def __getitem__(self, step: int) -> tuple[Batch | bytes | ZskdError, Tally]:
        with counting() as tally:
            try:
                return self._to_send(self._batches[step]), tally
            except ZskdError as error:
                return error, tally

    def _to_send(self, batch: Batch) -> Batch | bytes:
        """Return a batch in shared memory, or pickled once there is no room: else the loader, which moves it
        there, would lose it and wait for ever."""
        if self._shares:
            try:
                for tensor in batch:
                    tensor.share_memory_()  # type: ignore[no-untyped-call]
                return batch
            except RuntimeError:
                self._shares = False  # torch leaves an empty file at each attempt
        return pickle.dumps(batch)


def prepared(batches: Batches, steps: range, helper: bool) -> abc.Generator[Batch, None, None]:
    """Yield the batches of the steps in order, prepared by a helper process or in this one.

    Raises:
        ZskdError: the helper was killed, or a batch cannot be made.
    """
    if not helper:
        yield from map(batches.__getitem__, steps)
        return
    context = new_processes()
    lifeline = Lifeline(context)
    loader = DataLoader(
        _CountedBatches(batches),
        batch_size=None,
        sampler=steps,
        num_workers=1,
        prefetch_factor=_AHEAD,
        multiprocessing_context=context,
        worker_init_fn=partial(_start_helper, torch.get_num_threads(), lifeline.end),
    )
    try:
        for batch, tally in loader:
            if isinstance(batch, ZskdError):  # the loader would put its traceback into the message
                raise batch
            count_elsewhere(tally.passes())
            # the loader yields lists
            yield pickle.loads(batch) if isinstance(batch, bytes) else tuple(batch)
    except (RuntimeError, EOFError, OSError) as error:
        # either the loader reports it, or the shared tensors of the helper are gone; "Caught" begins an error
        # that the helper itself raised
        if str(error).startswith("Caught") or (
            type(error) is RuntimeError and "DataLoader" not in str(error)
        ):
            raise
        raise ZskdError(
            "the process that prepares batches was killed (perhaps too little memory): run the command "
            "again to resume, or give --workers 1"
        ) from error
    finally:
        lifeline.cut()


def _start_helper(threads: int, lifeline: Connection, _number: int) -> None:
    hold_on(lifeline)
    torch.set_num_threads(threads)
    keep_freed_memory()
