"""The stages of a run: which of how many it is in, and what time and energy each took."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zskd.core.energy import Meter
from zskd.core.progress import Progress, Within
from zskd.core.timing import Clock


class Stages:
    """Counts the stages of a run as they begin, and adds their durations and energy to the run's files.

    Args:
        total: number of stages.
        folder: of the run.
        progress: receives a line at the beginning of each stage.
        meter: of the energy.
    """

    def __init__(self, total: int, folder: Path, progress: Progress, meter: Meter) -> None:
        self._total, self._progress, self._begun = total, progress, 0
        self.clock = Clock(folder / "timings.json", meter)
        """Seconds and joules by stage, over all interruptions."""

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

    def spent(self) -> dict[str, object]:
        """Return the fields of a run's metrics that tell its time and energy."""
        of_energy = {"joules": dict(self.clock.joules)} if self.clock.joules else {}
        return {"seconds": dict(self.clock.seconds), "energy": self.clock.meter.outcome, **of_energy}
