"""Independent tasks in several processes of this machine.

This file extends the process pool of the standard library: a task whose worker was killed is repeated,
progress is reported while tasks run, and workers end when the process that started them ends.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from queue import Empty, SimpleQueue
from typing import Any

from zskd.core.engines.base import OnProgress, Result, Shared
from zskd.core.errors import ZskdError, one_line
from zskd.core.interrupt import postponed
from zskd.core.stdio import keep_lasting_streams

_ATTEMPTS = 3
"""Number of pools that may break in a row without a result, before an error is raised."""
_POLL_SECONDS = 0.2
_OF_TRACKER = "ignore:resource_tracker"
"""As for Python's option -W: a category of warnings, by the beginning of their text."""


class WorkersDied(ZskdError):
    """Workers were killed again and again, before any of them had a result."""


def each_done(
    work: Callable[[Shared, int, OnProgress], Result],
    shared: Shared,
    numbers: Sequence[int],
    *,
    workers: int,
    on_progress: OnProgress,
) -> Iterator[tuple[int, Result]]:
    """Run numbered tasks and yield (number, result) of each when it is done, in any order.

    Args:
        work: a module-level function, called as work(shared, number, on_progress); it must be safe to repeat.
        shared: input of every task; sent to each worker once.
        numbers: numbers of the tasks, at least 0.
        workers: number of processes, with one thread each; 1: all tasks run in this process.
        on_progress: called with the number of units done since the last call, as `work` reports them.

    Raises:
        WorkersDied: workers were killed three times in a row.
        ZskdError: raised by a task; or `shared` cannot be pickled.
    """
    if workers == 1:
        for number in numbers:
            yield number, work(shared, number, on_progress)
        return
    payload, units = _packed(work, shared), new_processes().Array("q", max(numbers) + 1, lock=False)
    left, reported, broken = list(numbers), 0, 0

    def report() -> None:
        """Report the units that the workers have counted; their sum decreases when a task is repeated."""
        nonlocal reported
        now = max(reported, sum(units))
        on_progress(now - reported)
        reported = now

    while left:
        try:
            for number, result in _pool(payload, units, left, workers, report):
                left.remove(number)
                broken = 0
                yield number, result
        except BrokenProcessPool as error:
            broken += 1
            if broken == _ATTEMPTS:
                raise WorkersDied(
                    f"worker processes died {_ATTEMPTS} times in a row (too little memory, or too few "
                    "open files: ulimit -n): give --workers 1; a script must start workers only under "
                    'if __name__ == "__main__":'
                ) from error


def start_workers(workers: int) -> None:
    """Start workers and end them again, so that later ones start fast: the first start takes seconds."""
    if workers > 1:
        for _ in each_done(_nothing, None, range(workers), workers=workers, on_progress=lambda _: None):
            pass


def _nothing(_shared: None, _number: int, _on_progress: OnProgress) -> None:
    pass


def _packed(work: Callable[..., Any], shared: Any) -> bytes:
    try:
        return pickle.dumps((work, shared))
    except Exception as error:  # the user's network may raise any exception when it is pickled
        raise ZskdError(
            f"the network cannot be sent to other processes ({one_line(error)}): give --workers 1, or define "
            "it in a module that can be imported"
        ) from error


def _pool(
    payload: bytes, units: Any, numbers: list[int], workers: int, report: Callable[[], None]
) -> Iterator[tuple[int, Any]]:
    """Run the tasks in one pool of processes; it breaks when one of them is killed."""
    context = new_processes()
    lifeline = Lifeline(context)
    pool = ProcessPoolExecutor(workers, context, _begin, (payload, units, lifeline.end))
    # not `concurrent.futures.wait`: it takes the locks of all futures one after the other, and keeps some
    # where an interruption comes between two of them; the pool could then never be shut down
    done: SimpleQueue[Future[Any]] = SimpleQueue()
    finished = False
    try:
        # interrupted while it starts workers, the pool would not wait for them; one that finds this process
        # gone before it has read its input prints a traceback
        with postponed():
            left = _submitted(pool, numbers, done)
        while left:
            try:
                future = done.get(timeout=_POLL_SECONDS)
            except Empty:
                pass
            else:
                yield future.result()
                left -= 1
            report()
        finished = True
    finally:
        if not finished:
            lifeline.cut()
        pool.shutdown(cancel_futures=True)
        lifeline.cut()


def _submitted(pool: ProcessPoolExecutor, numbers: list[int], done: SimpleQueue[Future[Any]]) -> int:
    """Give all tasks to the pool, which puts each into `done` when it ends, and return their number."""
    try:
        for number in numbers:
            pool.submit(_do, number).add_done_callback(done.put)
        return len(numbers)
    except (OSError, EOFError) as error:  # a worker died while it received its input
        raise BrokenProcessPool("a worker died while it was started") from error


def new_processes() -> Any:
    """Return a `multiprocessing` context whose processes inherit no threads and no locks of this one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["zskd.synthesis.build", "zskd.distillation.students"]
    )  # imported once for all workers
    _start_servers()
    return context


def _start_servers() -> None:
    """Start the processes that start the workers, and that count what these share, without a word to come.

    A signal from a terminal goes to every process of the group, and this one handles it. So workers never
    receive Ctrl-C, not even before their first line, and the tracker survives the end of the terminal. What a
    killed command shared, the tracker removes; the warning about it would follow the prompt.
    """
    from multiprocessing import forkserver, resource_tracker

    sys.warnoptions.append(_OF_TRACKER)
    try:
        with _blocked("SIGHUP"):
            resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(_OF_TRACKER)
    with _blocked("SIGINT"):
        forkserver.ensure_running()


@contextmanager
def _blocked(name: str) -> Iterator[None]:
    """Keep a signal from this thread, until the end of the block, and from the processes started in it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {getattr(signal, name)})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Lifeline:
    """Ends other processes together with this one: they exit when the pipe is closed or this process ends."""

    def __init__(self, context: Any) -> None:
        self.end, self._own_end = context.Pipe(duplex=False)
        """End of the pipe for the other processes, which pass it to `hold_on`."""

    def cut(self) -> None:
        """Make the other processes exit at once."""
        self._own_end.close()
        self.end.close()


def hold_on(lifeline: Connection) -> None:
    """In another process: exit when the lifeline is cut, and ignore Ctrl-C, which the parent handles.

    Output to a closed stream is dropped and raises no error.
    """
    keep_lasting_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_when_cut, args=(lifeline,), daemon=True).start()


def _exit_when_cut(lifeline: Connection) -> None:
    wait_for([lifeline])
    os._exit(1)


_task: tuple[Callable[[Any, int, OnProgress], Any], Any, Any]
"""In a worker: the function, its shared input and the array of units done."""


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

    try:
        return number, work(shared, number, on_progress)
    except Exception as error:
        if _can_be_sent(error):
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _can_be_sent(error: Exception) -> bool:
    """Return whether the process that asked can unpickle an exception; if not, its pool would break."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a class of the user raises
        return False
    return True
