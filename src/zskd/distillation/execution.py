"""How students are trained: where, in how many processes, with how many threads and helpers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from zskd.core.device import usable_cores
from zskd.core.engines.base import Engine
from zskd.core.engines.local import LocalEngine
from zskd.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How students are trained. Only the threads change the students, by rounding."""

    threads: int = 0
    """Of each student; 0: its share of the cores."""
    workers: int = 0
    """Processes that train students side by side; 0: one per core; 1: no other process is started."""
    tensorboard: Path | None = None
    """Folder for TensorBoard's event files."""
    engine: Engine = field(default_factory=LocalEngine)
    """Where the workers are."""
    helpers: bool = True
    """Whether the students can have helper processes, for which half of the cores are kept."""

    def side_by_side(self, teacher: Classifier, students: int) -> int:
        """Return how many students are trained at the same time; if several, each in its own process."""
        possible = not self.engine.here or (teacher.device.type == "cpu" and students > 1)
        return min(self.workers or self.engine.cores(), students) if possible else 1

    def threads_of_each(self, students: int) -> int:
        """Return the threads that each student is trained with: as set, or half its share of the cores.

        The other half is for the helper process that makes its batches; where there can be none, its threads
        are all of its share. The number does not depend on the number of workers, because the student's bytes
        depend on it.
        """
        processes = 2 if self.helpers else 1
        return self.threads or max(1, usable_cores() // (processes * students))

    def has_room_for_helper(self, students: int = 1, workers: int = 1) -> bool:
        """Whether each student in training can have a helper process on cores of its own.

        Args:
            students: in all.
            workers: how many of them are trained at the same time.
        """
        if self.workers == 1 or not self.engine.here or not self.helpers:
            return False
        return usable_cores() // workers >= 2 * self.threads_of_each(students)
