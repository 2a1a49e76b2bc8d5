"""Progress of long work: a live bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO, cast, runtime_checkable

from zskd.core.interrupt import raise_lost
from zskd.core.stdio import Lasting

if TYPE_CHECKING:
    from zskd.core.types import Images

_LINE_EVERY_SECONDS = 5.0


@runtime_checkable
class Task(Protocol):
    """One piece of work that is advancing."""

    def advance(self, done: int = 1, note: str = "") -> None:
        """Report `done` further units; `note` is a short text such as the current loss."""


class Progress:
    """Silent progress and the base of the others; library functions take one and default to this."""

    verbose = False
    """Whether details are told as well."""
    listens = False
    """Whether curves and pictures are kept; nothing is worked out for them alone where they are not."""

    def log(self, text: str) -> None:
        """Print one line of information."""

    def detail(self, text: str) -> None:
        """Print one line about how something is done, for those who asked for it."""
        if self.verbose:
            self.log(text)

    def note(self, name: str, value: float, step: int) -> None:
        """Keep one point of a curve; steps count from 0."""

    def picture(self, name: str, images: Images) -> None:
        """Keep a picture of some images."""

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Follow work of `total` units of which `done` lie behind it already."""
        yield _SilentTask()


class _SilentTask:
    def advance(self, done: int = 1, note: str = "") -> None:
        raise_lost()


def readable_seconds(seconds: float) -> str:
    """Return a duration as people say it: `8 s`, `2 min 05 s`, `3 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def readable_bytes(size: float) -> str:
    """Return a size as people say it, in powers of 1,000: `98 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if round(size) < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


class PlainProgress(Progress):
    """One line every five seconds, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def log(self, text: str) -> None:
        """Print one line of information."""
        print(text, file=Lasting(self._stream or sys.stderr), flush=True)

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Follow work; a last line tells its duration when it took longer than five seconds."""
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
        rate = (self._done - self._first) / (now - self.started)
        left = readable_seconds((self._total - self._done) / rate) if rate > 0 else "?"
        tail = f", {note}" if note else ""
        self._progress.log(
            f"{self._title}: {self._done:,} of {self._total:,} {self._unit}, {rate:,.1f}/s, {left} left{tail}"
        )


class LiveProgress(Progress):
    """A bar with rate and time left on a terminal."""

    def log(self, text: str) -> None:
        """Print one line of information."""
        PlainProgress().log(text)

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Follow work with a live bar that disappears into one finished line."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("left  {task.fields[note]}"),
        )
        with Bar(*columns, console=Console(file=cast(TextIO, Lasting(sys.stderr)))) as bar:
            yield _LiveTask(bar, bar.add_task(title, total=total, completed=done, note="", rate=""), unit)


class _LiveTask:
    def __init__(self, bar: object, key: object, unit: str) -> None:
        self._bar, self._key, self._unit = bar, key, unit
        self._started, self._done = time.monotonic(), 0

    def advance(self, done: int = 1, note: str = "") -> None:
        raise_lost()
        self._done += done
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        self._bar.update(  # type: ignore[attr-defined]
            self._key, advance=done, note=note, rate=f"{rate:,.0f} {self._unit}/s"
        )


def default_progress(quiet: bool = False, verbose: bool = False) -> Progress:
    """Choose by the standard error stream: silent when quiet, live on a terminal, else plain."""
    if quiet:
        return Progress()
    progress = LiveProgress() if Lasting(sys.stderr).isatty() else PlainProgress()
    progress.verbose = verbose
    return progress


class WorkerProgress(Progress):
    """Passes the units of a worker's tasks on to the process that asked for the work."""

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        self._on_progress = on_progress

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Follow work of `total` units of which `done` lie behind it already."""
        self._on_progress(done)
        yield self

    def advance(self, done: int = 1, note: str = "") -> None:
        """Report `done` further units."""
        self._on_progress(done)
