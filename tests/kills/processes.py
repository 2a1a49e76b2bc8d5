"""Commands of zskd in forks of this process, which has imported everything; they are killed for real."""

from __future__ import annotations

import gc
import importlib
import mmap
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from kills.disk import Disk, watched
from warm.server import IMPORTED, become

_LOOK_SECONDS = 0.005
_LONGEST, _LEAST_LIFE = 600.0, 20.0
"""Seconds that a command may take, and that its other processes may outlive it."""


def import_all() -> None:
    """Import what the commands use, so that a fork begins behind it."""
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # a fork loses threads
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()


class Command:
    """A running command, which leads a session of processes.

    Args:
        arguments: of `zskd`.
        folder: where it runs; an absolute path.
        cut: number of the change of a file before which it kills itself, and which names are left in
            `folder` then: those of `NAMES`, as by a power cut, or None for all that was written.
    """

    def __init__(
        self, arguments: tuple[str, ...], folder: Path, cut: tuple[int, str | None] | None = None
    ) -> None:
        self._folder, self._changes, self._started = folder, mmap.mmap(-1, 8), time.monotonic()
        self._code: int | None = None
        self.log = folder.with_name(f"{folder.name}.log")
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            streams = [os.open(os.devnull, os.O_RDONLY), log, os.dup(log)]
            watching = watched(folder, self._counting(cut))
            watching.__enter__()
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(folder.parent)}
            become(["-m", "zskd", *arguments], str(folder), environment, streams)

    def _counting(self, cut: tuple[int, str | None] | None) -> Callable[[Disk], None]:
        """Return what is called before each change of a file."""

        def count(disk: Disk) -> None:
            number = self.changes + 1
            self._changes[:] = number.to_bytes(8, "little")
            if cut is not None and number == cut[0]:
                if cut[1] is not None:
                    disk.leave(cut[1], self._folder.with_name("left"))
                os.kill(os.getpid(), signal.SIGKILL)

        return count

    @property
    def changes(self) -> int:
        """Number of changes of files that the command itself has come to."""
        return int.from_bytes(self._changes[:], "little")

    @property
    def seconds(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started

    def code(self) -> int | None:
        """Return its exit code, below 0 for a signal; None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, seconds: float = _LONGEST) -> int | None:
        """Return its exit code; None if it still runs behind so many seconds from its start."""
        while self.code() is None and self.seconds < seconds:
            time.sleep(_LOOK_SECONDS)
        return self._code

    def kill(self) -> None:
        """Kill the command alone."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def kill_group(self) -> None:
        """Kill the command and all that it has started."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def kill_worker(self, number: int) -> bool:
        """Kill one of the processes that it has started, as soon as there are any; return whether it did."""
        while self.code() is None:
            others = self._others()
            if others:
                others[number % len(others)].kill()
                return True
            time.sleep(_LOOK_SECONDS)
        return False

    def _others(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def outlived(self) -> int:
        """Return how many processes of its session do not end soon after it."""
        until = time.monotonic() + _LEAST_LIFE
        while (alive := _session(self.pid)) and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
        return len(alive)

    def stop(self) -> None:
        """Kill what is left of it."""
        for process in _session(self.pid):
            process.kill()
        if self._code is None:
            self.wait()


def _session(leader: int) -> list[psutil.Process]:
    """Return the living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found
