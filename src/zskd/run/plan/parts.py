"""The parts of a run, and how long they take with several workers: known seconds, simulated in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from zskd.core.engines.overhead import Overhead
from zskd.core.passes import StagePasses, sum_passes
from zskd.core.schedule import seconds_until_done

NO_PASSES = StagePasses(teacher_forward=0, teacher_backward=0, student_forward=0, student_backward=0)
BACKWARD = 2
"""Forward passes with as many multiply-adds as one backward through a network in training, for inputs and
weights; through a frozen network, one."""
MOST_WORKERS = 1000
_WORTH = 1.05
"""Workers help where a run with the most of them is faster by more than this factor."""


def add_counts(parts: Iterable[StagePasses]) -> StagePasses:
    """Return the sum of several counts of passes."""
    return sum_passes([{"all": NO_PASSES}, *({"all": one} for one in parts)])["all"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a run: tasks that any worker can take, after some work of the process of the command.

    It begins when the part before it has ended.
    """

    stage: str
    """Its row in tables; several parts may share it."""
    serial: float = 0.0
    """Seconds of the process of the command."""
    alone: tuple[float, ...] = ()
    """Seconds of each task in a run with one worker."""
    busy: tuple[float, ...] = ()
    """The same while other workers keep all cores of the machine busy."""
    passes: StagePasses = NO_PASSES
    multiply_adds: int = 0
    """Of all its passes."""
    memory: int = 0
    """Bytes that a worker needs."""
    disk: int = 0
    """Bytes that stay on the disk."""
    at_most: bool = False
    """Whether tasks and passes are upper bounds: of images that take all their steps."""

    @property
    def core_seconds(self) -> float:
        """Seconds of one worker."""
        return self.working_seconds(1)

    def _tasks(self, workers: int) -> tuple[float, ...]:
        return self.alone if workers == 1 else self.busy

    def working_seconds(self, workers: int) -> float:
        """Return the seconds that all workers work, summed."""
        return self.serial + sum(self._tasks(workers))

    def seconds(self, workers: int, overhead: Overhead, *, here: bool) -> float:
        """Return how long the part takes.

        Args:
            workers: tasks at the same time.
            overhead: of the engine.
            here: whether a single worker is the process of the command, at no cost.
        """
        useful, tasks = min(workers, len(self.alone)), self._tasks(workers)
        if not useful:
            return self.serial
        if here and useful == 1:
            return self.serial + sum(tasks)
        return self.serial + overhead.start + seconds_until_done(tasks, useful, between=overhead.task)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All parts of a run, in their order."""

    parts: Sequence[Part]
    overhead: Overhead = field(default_factory=Overhead)
    here: bool = True
    """Whether workers are processes of this machine."""

    @property
    def stages(self) -> dict[str, list[Part]]:
        """The parts by stage."""
        found: dict[str, list[Part]] = {}
        for part in self.parts:
            found.setdefault(part.stage, []).append(part)
        return found

    def working_seconds(self, workers: int) -> float:
        """Return the seconds that all of so many workers work, summed."""
        return sum(part.working_seconds(workers) for part in self.parts)

    def seconds(self, workers: int) -> float:
        """Return how long the run takes with so many workers, at least 1."""
        first = self.overhead.first if workers > 1 or not self.here else 0.0
        return first + sum(self.by_stage(workers).values())

    def by_stage(self, workers: int) -> dict[str, float]:
        """Return how long each stage takes."""
        return {
            stage: sum(part.seconds(workers, self.overhead, here=self.here) for part in parts)
            for stage, parts in self.stages.items()
        }

    def worth(self) -> int:
        """Return the number of workers beyond which 1,000 save less than 5 % of the time.

        The numbers tried rise by a fifth each.
        """
        tried, workers = [1], 1
        while workers < MOST_WORKERS:
            workers = min(MOST_WORKERS, max(workers + 1, workers * 6 // 5))
            tried.append(workers)
        enough = _WORTH * self.seconds(MOST_WORKERS)
        return next((one for one in tried if self.seconds(one) <= enough), MOST_WORKERS)
