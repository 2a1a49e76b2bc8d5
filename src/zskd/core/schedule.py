"""When tasks are done that workers take from a list, in its order (list scheduling: R. L. Graham, "Bounds on
multiprocessing timing anomalies", SIAM J. Appl. Math. 17(2), 1969)."""

from __future__ import annotations

import heapq
from collections.abc import Iterable


def seconds_until_done(tasks: Iterable[float], workers: int, *, between: float = 0.0) -> float:
    """Return the seconds until the last task is done, simulated.

    A free worker gets the next task. One process gives out all of them, one after the other: with n equal
    tasks of d seconds this takes max(n·between + d, ⌈n / workers⌉·(d + between)) at least.

    Args:
        tasks: seconds of each, in their order.
        workers: tasks at the same time, at least 1.
        between: seconds that giving out a task takes, at least 0.
    """
    free, given = [0.0] * workers, 0.0
    for seconds in tasks:
        given = max(given, free[0]) + between
        heapq.heapreplace(free, given + seconds)
    return max(free)
