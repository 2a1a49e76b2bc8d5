"""Tasks in processes of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from zskd.core.device import usable_cores
from zskd.core.engines.base import Need, OnProgress, Result, Shared
from zskd.core.parallel import each_done, start_workers


class LocalEngine:
    """Processes of this machine; one worker is this process itself. Callers see to it that the memory
    suffices.
    """

    here = True

    def cores(self) -> int:
        """Return the number of cores that this process may use."""
        return usable_cores()

    def start(self, workers: int) -> None:
        """Start workers and end them again: the first start takes seconds, later ones do not."""
        start_workers(workers)

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
        """Run tasks as `core.parallel.each_done` does; `need` is not read."""
        return each_done(work, shared, numbers, workers=workers, on_progress=on_progress)
