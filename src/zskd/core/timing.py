"""How long each stage of some work took, and each step of a training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zskd.core.artefact import Artefact, JsonObject, Name, Seconds, parse
from zskd.core.files import read_json, write_json
from zskd.core.progress import Progress, Task

_WARM_STEPS, _LEAST_STEPS = 10, 10
"""The first steps of a training are not timed, and at least so many are."""


class _Seconds(Artefact):
    seconds: dict[Name, Seconds]


def read_seconds(path: Path, what: str) -> dict[str, float]:
    """Read seconds, none of them negative, by the names of what took them; none where there is no file.

    Args:
        path: the file.
        what: the file's role, for the message.

    Raises:
        ZskdError: it is damaged.
    """
    if not path.is_file():
        return {}
    values: JsonObject = {"seconds": read_json(path, what)}
    return parse(values, _Seconds, f"{path}, {what},", "delete it").seconds


class Clock:
    """Seconds per stage in a JSON file, added up over interruptions; what `kill -9` cut off is lost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds = read_seconds(path, "the timings of a run")

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + spent, 3)
            write_json(self._path, self.seconds)


@dataclass(frozen=True)
class Pace:
    """How fast a training goes, in seconds."""

    start: float
    """What it takes beside its steps, above all before the first."""
    step: float
    """What each step takes."""


class Enough(Exception):
    """Enough steps have been timed."""


class Stopwatch(Progress):
    """Times the steps of a training that tells it of each, from now on, and stops it by raising `Enough`."""

    def __init__(self, seconds: float) -> None:
        """Begin.

        Args:
            seconds: that the steps behind the warm-up are timed for, and a little more if they are few.
        """
        self._seconds, self._begun = seconds, time.perf_counter()
        self._times: list[float] = []

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Follow the training."""
        yield self

    def advance(self, done: int = 1, note: str = "") -> None:
        """Note the time of a step.

        Raises:
            Enough: they have been timed for long enough.
        """
        self._times.append(time.perf_counter() - self._begun)
        timed = self._times[_WARM_STEPS:]
        if len(timed) > _LEAST_STEPS and timed[-1] - timed[0] >= self._seconds:
            raise Enough

    def pace(self) -> Pace:
        """Return what was found, when enough was."""
        timed = self._times[_WARM_STEPS:]
        step = (timed[-1] - timed[0]) / (len(timed) - 1)
        return Pace(start=max(0.0, timed[0] - (_WARM_STEPS + 1) * step), step=step)
