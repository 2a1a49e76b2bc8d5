"""Durations of the stages of a run, with their energy, and of training steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zskd.core.artefact import Artefact, JsonObject, Name, Seconds, parse, read_artefact, write_artefact
from zskd.core.energy import Meter, StageEnergy
from zskd.core.files import write_json
from zskd.core.progress import StepsProgress
from zskd.core.reading import read_json

_WARM_STEPS, _LEAST_STEPS = 10, 10
"""Number of first steps that are not timed, and least number of steps that are."""
ENDLESS = 10**9
"""Steps of a training that is only timed, and stopped before the last one."""


class _Seconds(Artefact):
    seconds: dict[Name, Seconds]


def read_seconds(path: Path, what: str) -> dict[str, float]:
    """Read a file of durations: name -> seconds, at least 0. Without a file, return an empty dict.

    Args:
        path: the file.
        what: the file's role, for the message.

    Raises:
        ZskdError: the file is damaged.
    """
    if not path.is_file():
        return {}
    advice = "delete it"
    values: JsonObject = {"seconds": read_json(path, what, advice)}
    return parse(values, _Seconds, f"{path}, {what},", advice).seconds


class Clock:
    """Seconds per stage in a JSON file, summed over interruptions; without a stage that `kill -9` ended.

    Args:
        path: the file.
        meter: of the energy, which goes into energy.json beside it; None: it is not measured.

    Raises:
        ZskdError: a file is damaged.
    """

    def __init__(self, path: Path, meter: Meter | None = None) -> None:
        self._path, self._of_energy = path, path.with_name("energy.json")
        self.meter = meter or Meter(None)
        self.seconds = read_seconds(path, "the timings of a run")
        self.joules: dict[str, float] = {}
        """Of the stages whose every part was measured."""
        if self._of_energy.is_file():
            self.joules = read_artefact(
                self._of_energy, StageEnergy, "the energy of a run", "delete it"
            ).joules

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the duration of the block, and its energy, to a stage."""
        energy = self.meter.block()
        started = time.perf_counter()
        try:
            with energy:
                yield
        finally:
            spent = time.perf_counter() - started
            self._add_energy(stage, energy.joules)
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + spent, 3)
            write_json(self._path, self.seconds)

    def _add_energy(self, stage: str, joules: float | None) -> None:
        """Add a part of a stage: before its seconds, which without joules stand for a part not measured."""
        before = dict(self.joules)
        if joules is None or (stage in self.seconds and stage not in self.joules):
            self.joules.pop(stage, None)
        else:
            self.joules[stage] = round(self.joules.get(stage, 0.0) + joules, 3)
        if self.joules != before:
            write_artefact(self._of_energy, StageEnergy(joules=self.joules))


@dataclass(frozen=True)
class Pace:
    """Speed of a training, in seconds."""

    start: float
    """Time outside the steps, mostly before the first step."""
    step: float
    """Time of one step."""


class Enough(Exception):
    """Enough steps have been timed."""


class Stopwatch(StepsProgress):
    """Measures the steps of a training from now on, and stops the training by raising `Enough`.

    What comes before them, such as the start from the teacher, is the start of the pace.
    """

    def __init__(self, seconds: float) -> None:
        """Start the measurement.

        Args:
            seconds: time to measure after the warm-up steps; longer if there are too few steps.
        """
        self._seconds, self._begun = seconds, time.perf_counter()
        self._times: list[float] = []

    def advance(self, done: int = 1, note: str = "") -> None:
        """Record the time of a step.

        Raises:
            Enough: enough steps have been timed.
        """
        self._times.append(time.perf_counter() - self._begun)
        timed = self._times[_WARM_STEPS:]
        if len(timed) > _LEAST_STEPS and timed[-1] - timed[0] >= self._seconds:
            raise Enough

    def pace(self) -> Pace:
        """Return the measured speed; call it after `Enough` was raised."""
        timed = self._times[_WARM_STEPS:]
        step = (timed[-1] - timed[0]) / (len(timed) - 1)
        return Pace(start=max(0.0, timed[0] - (_WARM_STEPS + 1) * step), step=step)
