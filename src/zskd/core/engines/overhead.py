"""What an engine takes beside the work, measured with tasks that do nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass

from zskd.core.engines.base import Engine, Need, OnProgress

_TASKS, _ROUNDS = 200, 3
"""Tasks of a measurement, and how often it is made; the shortest time is the least disturbed."""


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Seconds that an engine takes beside the work."""

    first: float = 0.0
    """Until its workers can start fast, once for each command."""
    start: float = 0.0
    """Until the workers have started, and in the end have ended, each time that there are tasks."""
    task: float = 0.0
    """For each task."""


def measure_overhead(engine: Engine, workers: int) -> Overhead:
    """Return what an engine takes beside the work; nothing where one worker is this process.

    Args:
        engine: not used before by this process, for the seconds of the first start.
        workers: as many as the engine has cores, to be measured as they will run.

    Raises:
        ZskdError: as for `Engine.each_done`.
    """
    if engine.here and workers == 1:
        return Overhead()
    started = time.perf_counter()
    engine.start(workers)
    first = time.perf_counter() - started
    few, many = (
        min(empty_task_seconds(engine, workers, count) for _ in range(_ROUNDS))
        for count in (workers, workers + _TASKS)
    )
    task = max(0.0, many - few) / _TASKS
    start = max(0.0, few - workers * task)
    return Overhead(first=max(0.0, first - few), start=start, task=task)


def empty_task_seconds(engine: Engine, workers: int, count: int) -> float:
    """Return the seconds of some tasks that do nothing, with start and end of their workers.

    Args:
        engine: where they run.
        workers: tasks at the same time.
        count: number of tasks.

    Raises:
        ZskdError: as for `Engine.each_done`.
    """
    started = time.perf_counter()
    tasks = engine.each_done(
        _empty, None, range(count), workers=workers, need=Need(), on_progress=lambda _: None
    )
    for _ in tasks:
        pass
    return time.perf_counter() - started


def _empty(_shared: None, _number: int, _on_progress: OnProgress) -> None:
    """Do nothing."""
