"""What an engine is: it runs numbered tasks somewhere, and a task may be repeated anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

Shared = TypeVar("Shared")
Result = TypeVar("Result")
OnProgress = Callable[[int], None]
PROCESS_BYTES = 300_000_000
"""Bytes of a worker process before it makes anything."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one task needs of the machine that it runs on."""

    threads: int = 1
    memory: int = PROCESS_BYTES
    """Bytes, those of the process included."""
    gpus: int = 0


@runtime_checkable
class Engine(Protocol):
    """Runs numbered tasks. The bytes that they make do not depend on the engine."""

    here: bool
    """Whether all tasks share the cores and the memory of this machine."""

    def cores(self) -> int:
        """Return the number of cores that tasks can use, at least 1.

        Raises:
            ZskdError: the engine cannot be reached.
        """

    def start(self, workers: int) -> None:
        """Start so many worker processes, so that the first tasks are as fast as later ones.

        Raises:
            ZskdError: as for `each_done`.
        """

    def each_done(
        self,
        work: Callable[[Shared, int, OnProgress], Result],
        shared: Shared,
        numbers: Sequence[int],
        *,
        workers: int,
        need: Need,
        on_progress: OnProgress,
    ) -> Iterator[tuple[int, Result]]:
        """Run tasks and yield (number, result) of each when it is done, in any order.

        Args:
            work: a module-level function, called as work(shared, number, on_progress); it must be safe to
                repeat, and writes its files whole or not at all.
            shared: input of every task; sent to each worker once.
            numbers: numbers of the tasks, at least 0.
            workers: number of tasks at the same time.
            need: of each task.
            on_progress: called with the number of units done since the last call, as `work` reports them.

        Raises:
            ZskdError: raised by a task; or its workers were lost three times; or `shared` cannot be pickled;
                or the engine cannot run such tasks.
        """
