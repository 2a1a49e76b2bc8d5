"""Independent pieces of work in several processes of this machine.

The standard library's pool does the work. What is added here: a piece whose worker was killed is done
again, the pieces' progress is told while they run, and no worker outlives the process that asked.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

from zskd.core.errors import ZskdError, one_line
from zskd.core.stdio import keep_lasting_streams

Shared = TypeVar("Shared")
Result = TypeVar("Result")
OnProgress = Callable[[int], None]
_ATTEMPTS = 3
"""So many pools may break one after the other without a single result before it is given up."""
_POLL_SECONDS = 0.2


def each_done(
    work: Callable[[Shared, int, OnProgress], Result],
    shared: Shared,
    numbers: Sequence[int],
    *,
    workers: int,
    on_progress: OnProgress,
) -> Iterator[tuple[int, Result]]:
    """Do numbered pieces of work and yield each with its result as soon as it is done, in any order.

    Args:
        work: a function of a module, called as work(shared, number, on_progress); it must be safe to repeat.
        shared: what every piece needs; sent to each worker once.
        numbers: the pieces.
        workers: processes, of one thread each; 1: this process does it all.
        on_progress: called with the units of work that are done, as `work` reported them.

    Raises:
        ZskdError: what a piece raised; or workers are killed again and again; or `shared` cannot be sent.
    """
    if workers == 1:
        for number in numbers:
            yield number, work(shared, number, on_progress)
        return
    payload, units = _packed(work, shared), new_processes().Array("q", max(numbers) + 1, lock=False)
    left, told, broken = list(numbers), 0, 0

    def look() -> None:
        """Pass on what the workers have noted; the sum falls when a piece is begun again."""
        nonlocal told
        now = max(told, sum(units))
        on_progress(now - told)
        told = now

    while left:
        try:
            for number, result in _pool(payload, units, left, workers, look):
                left.remove(number)
                broken = 0
                yield number, result
        except BrokenProcessPool as error:
            broken += 1
            if broken == _ATTEMPTS:
                raise ZskdError(
                    f"worker processes died {_ATTEMPTS} times in a row (too little memory, perhaps): give "
                    "--workers 1. A script that asks for workers must do so under "
                    'if __name__ == "__main__":'
                ) from error


def start_workers(workers: int) -> None:
    """Start so many workers and let them go again: the first take seconds, later ones need not."""
    if workers > 1:
        for _ in each_done(_nothing, None, range(workers), workers=workers, on_progress=lambda _: None):
            pass


def _nothing(_shared: None, _number: int, _tell: OnProgress) -> None:
    pass


def _packed(work: Callable[..., Any], shared: Any) -> bytes:
    try:
        return pickle.dumps((work, shared))
    except Exception as error:  # whatever a user's network raises when it is packed
        raise ZskdError(
            f"the network cannot be sent to other processes ({one_line(error)}): give --workers 1, or define "
            "it in a module that can be imported"
        ) from error


def _pool(
    payload: bytes, units: Any, numbers: list[int], workers: int, look: Callable[[], None]
) -> Iterator[tuple[int, Any]]:
    """Do the pieces in one pool of processes; it breaks when one of them is killed."""
    context = new_processes()
    lifeline = Lifeline(context)
    pool = ProcessPoolExecutor(workers, context, _begin, (payload, units, lifeline.end))
    finished = False
    try:
        waiting = _submitted(pool, numbers)
        while waiting:
            done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
            look()
        finished = True
    finally:
        if not finished:
            lifeline.cut()
        pool.shutdown(cancel_futures=True)
        lifeline.cut()


def _submitted(pool: ProcessPoolExecutor, numbers: list[int]) -> set[Future[Any]]:
    try:
        return {pool.submit(_do, number) for number in numbers}
    except (OSError, EOFError) as error:  # a worker died while it was given what it needs
        raise BrokenProcessPool("a worker died while it was started") from error


def new_processes() -> Any:
    """Return a way to start processes that copies no threads and no locks of this one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["zskd.synthesis.build", "zskd.distillation.students"]
    )  # imported once for all workers
    return context


class Lifeline:
    """Ties other processes to this one: they leave when it is cut, be it by this process's death."""

    def __init__(self, context: Any) -> None:
        self.end, self._ours = context.Pipe(duplex=False)
        """For the other processes, which call `hold_on`."""

    def cut(self) -> None:
        """Make the others leave at once."""
        self._ours.close()
        self.end.close()


def hold_on(lifeline: Connection) -> None:
    """In another process: leave when the lifeline is cut, and leave interruptions to the one who holds it.

    A warning that nobody reads any more does not end the work either.
    """
    keep_lasting_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(lifeline,), daemon=True).start()


def _leave_with(lifeline: Connection) -> None:
    wait_for([lifeline])
    os._exit(1)


_task: tuple[Callable[[Any, int, OnProgress], Any], Any, Any]
"""In a worker: what to do, with what, and where to note the progress."""


def _begin(payload: bytes, units: Any, lifeline: Connection) -> None:
    """Prepare a worker."""
    global _task
    import torch

    hold_on(lifeline)
    torch.set_num_threads(1)
    work, shared = pickle.loads(payload)
    _task = (work, shared, units)


def _do(number: int) -> tuple[int, Any]:
    work, shared, units = _task
    units[number] = 0

    def on_progress(done: int) -> None:
        units[number] += done

    return number, work(shared, number, on_progress)
