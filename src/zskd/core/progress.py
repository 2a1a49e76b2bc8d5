"""Progress of long tasks: a live bar on a terminal, plain lines elsewhere, no output when quiet."""

from __future__ import annotations

import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO, cast, runtime_checkable

from zskd.core.interrupt import raise_lost
from zskd.core.stdio import Lasting

if TYPE_CHECKING:
    from zskd.core.types import Images

_LINE_EVERY_SECONDS = 5.0
_KNOWN_SECONDS, _KNOWN_SHARE = 10.0, 0.02
"""Least duration, and least share of the work, from which the time left is estimated."""


@runtime_checkable
class Task(Protocol):
    """A task whose progress is reported."""

    def advance(self, done: int = 1, note: str = "") -> None:
        """Report `done` further units; `note` is a short text such as the current loss."""


class Progress:
    """Progress without output, and the base class of the others. The default of library functions."""

    verbose = False
    """Whether details are printed, too."""
    listens = False
    """Whether curves and pictures are recorded. If not, values that only they need are not computed."""

    def log(self, text: str) -> None:
        """Print one line of information."""

    def detail(self, text: str) -> None:
        """Print one line of detail, if `verbose`."""
        if self.verbose:
            self.log(text)

    def note(self, name: str, value: float, step: int) -> None:
        """Record one point of a curve; steps count from 0."""

    def picture(self, name: str, images: Images) -> None:
        """Record a picture of images (N, C, H, W) in [0, 1]."""

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Report a task of `total` units, of which `done` were done before."""
        yield _SilentTask()


class _SilentTask:
    def advance(self, done: int = 1, note: str = "") -> None:
        raise_lost()


def readable_seconds(seconds: float) -> str:
    """Return a duration in seconds as text: `8 s`, `2 min 05 s`, `3 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def readable_bytes(size: float) -> str:
    """Return a size in bytes as text, in powers of 1,000: `98 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if round(size) < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _time_left(done: int, all_of_it: int, seconds: float) -> str:
    """Return how long the rest takes, as text: `40 s left`. Empty as long as that means nothing.

    Args:
        done: units since the start.
        all_of_it: units from the start to the end.
        seconds: since the start.
    """
    if seconds < _KNOWN_SECONDS or done < max(1, _KNOWN_SHARE * all_of_it) or done >= all_of_it:
        return ""
    return f"{readable_seconds((all_of_it - done) * seconds / done)} left"


class Relay(Progress):
    """Passes everything to another progress; the base of those that change some of it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.verbose, self.listens = progress.verbose, progress.listens

    def log(self, text: str) -> None:
        """Print one line of information."""
        self._progress.log(text)

    def note(self, name: str, value: float, step: int) -> None:
        """Record one point of a curve."""
        self._progress.note(name, value, step)

    def picture(self, name: str, images: Images) -> None:
        """Record a picture of images (N, C, H, W) in [0, 1]."""
        self._progress.picture(name, images)

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Report a task of `total` units, of which `done` were done before."""
        with self._progress.task(title, total, unit, done) as task:
            yield task


class Within(Relay):
    """Tells what a task is a part of: `3 of 5, student zskd, distill`.

    Args:
        part_of: text before the title of each task.
        progress: receives everything.
    """

    def __init__(self, part_of: str, progress: Progress) -> None:
        super().__init__(progress)
        self._part_of = part_of

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Report a task of `total` units, of which `done` were done before."""
        with super().task(f"{self._part_of}, {title}", total, unit, done) as task:
            yield task


class PlainProgress(Progress):
    """One line every five seconds, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def log(self, text: str) -> None:
        """Print one line of information."""
        print(text, file=Lasting(self._stream or sys.stderr), flush=True)

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Report a task; a last line gives its duration when it took longer than five seconds."""
        task = _PlainTask(self, title, total, unit, done)
        yield task
        elapsed = time.monotonic() - task.started
        if elapsed > _LINE_EVERY_SECONDS:
            self.log(f"{title}: {total:,} {unit} in {readable_seconds(elapsed)}")


class _PlainTask:
    def __init__(self, progress: PlainProgress, title: str, total: int, unit: str, done: int) -> None:
        self._progress, self._title, self._total, self._unit = progress, title, total, unit
        self._first = self._done = done
        self.started = self._printed = time.monotonic()

    def advance(self, done: int = 1, note: str = "") -> None:
        raise_lost()
        self._done += done
        now = time.monotonic()
        if now - self._printed < _LINE_EVERY_SECONDS:
            return
        self._printed = now
        done, seconds = self._done - self._first, now - self.started
        facts = (
            f"{self._title}: {self._done:,} of {self._total:,} {self._unit}",
            f"{done / seconds:,.1f}/s",
            _time_left(done, self._total - self._first, seconds),
            note,
        )
        self._progress.log(", ".join(filter(None, facts)))


class LiveProgress(Progress):
    """A bar with rate and, as soon as it means something, the time left on a terminal."""

    def log(self, text: str) -> None:
        """Print one line of information."""
        PlainProgress().log(text)

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Report a task with a live bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[note]}"),
        )
        with Bar(*columns, console=Console(file=cast(TextIO, Lasting(sys.stderr)))) as bar:
            key = bar.add_task(title, total=total, completed=done, note="", rate="", left="")
            yield _LiveTask(bar, key, unit, total - done)


class _LiveTask:
    def __init__(self, bar: object, key: object, unit: str, total: int) -> None:
        self._bar, self._key, self._unit, self._total = bar, key, unit, total
        self._started, self._done = time.monotonic(), 0

    def advance(self, done: int = 1, note: str = "") -> None:
        raise_lost()
        self._done += done
        seconds = max(time.monotonic() - self._started, 1e-9)
        self._bar.update(  # type: ignore[attr-defined]
            self._key,
            advance=done,
            note=note,
            rate=f"{self._done / seconds:,.0f} {self._unit}/s",
            left=_time_left(self._done, self._total, seconds),
        )


def default_progress(quiet: bool = False, verbose: bool = False) -> Progress:
    """Return the progress for standard error: a live bar on a terminal, else plain lines.

    Args:
        quiet: report nothing.
        verbose: report details, too.
    """
    if quiet:
        return Progress()
    progress = LiveProgress() if Lasting(sys.stderr).isatty() else PlainProgress()
    progress.verbose = verbose
    return progress


class StepsProgress(Progress):
    """Follows the steps of trainings, and no other units: those of a start from the teacher are none."""

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Yield itself for a task in steps; the `done` ones of an earlier command are not followed."""
        if unit == "steps":
            yield self
            return
        with super().task(title, total, unit, done) as silent:
            yield silent

    @abstractmethod
    def advance(self, done: int = 1, note: str = "") -> None:
        """Follow `done` further steps."""


class WorkerProgress(StepsProgress):
    """Reports the steps of a worker's trainings to the process that started it."""

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self._on_progress = on_progress

    def advance(self, done: int = 1, note: str = "") -> None:
        """Report `done` further steps."""
        self._on_progress(done)
