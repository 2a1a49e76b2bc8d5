"""The stages of a run: which of how many it is in, and how long each took."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zskd.core.progress import Progress, Within
from zskd.core.timing import Clock


class Stages:
    """Counts the stages of a run as they begin, and adds their durations to the run's file of timings.

    Args:
        total: number of stages.
        folder: of the run.
        progress: receives a line at the beginning of each stage.
    """

    def __init__(self, total: int, folder: Path, progress: Progress) -> None:
        self._total, self._progress, self._begun = total, progress, 0
        self.clock = Clock(folder / "timings.json")
        """Seconds by stage, over all interruptions."""

    @contextmanager
    def __call__(self, name: str, title: str) -> Iterator[Progress]:
        """Begin the next stage.

        Args:
            name: in the timings.
            title: in the line that tells of it.

        Yields:
            What receives the progress of the stage; its tasks tell the number of the stage.
        """
        self._begun += 1
        number = f"{self._begun} of {self._total}"
        self._progress.log(f"{number}: {title}")
        with self.clock(name):
            yield Within(number, self._progress)
