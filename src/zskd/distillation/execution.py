"""How students are trained on this machine: processes, threads and helpers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zskd.core.device import usable_cores
from zskd.models.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How students are trained on this machine. Only the threads touch what comes out, by rounding."""

    threads: int = 0
    """Of each student; 0: its share of the cores."""
    workers: int = 0
    """Processes that train students side by side; 0: one per core; 1: no other process is started."""
    tensorboard: Path | None = None
    """Folder for TensorBoard's event files."""

    def side_by_side(self, teacher: Classifier, students: int) -> int:
        """Return how many of some students are trained at a time, each in its own process if several are."""
        possible = teacher.device.type == "cpu" and students > 1
        return min(self.workers or usable_cores(), students) if possible else 1

    def threads_of_each(self, students: int) -> int:
        """Return the threads that each student is trained with: as set, or half its share of the cores.

        The other half is for the helper that makes its batches ready. It does not hang on the number of
        workers, because the student's bytes hang on it.
        """
        return self.threads or max(1, usable_cores() // (2 * students))

    def has_room_for_helper(self, students: int = 1, workers: int = 1) -> bool:
        """Whether each student that is being trained can have a helper without cores being shared.

        Args:
            students: in all.
            workers: how many of them are trained at a time.
        """
        if self.workers == 1:
            return False
        return usable_cores() // workers >= 2 * self.threads_of_each(students)
