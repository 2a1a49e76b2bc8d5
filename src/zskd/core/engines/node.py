"""The part of the Ray engine that runs on the nodes."""

from __future__ import annotations

import os
import pickle
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zskd.core.engines.base import OnProgress
from zskd.core.errors import ZskdError
from zskd.core.versions import versions

_REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class Parcel:
    """Function and shared input of all tasks, and what a worker must have in common with their sender."""

    payload: bytes
    """Pickled (function, input)."""
    folder: str
    """The sender's current folder."""
    path: list[str]
    """Where the sender finds modules."""
    versions: dict[str, str]

    @classmethod
    def of_here(cls, payload: bytes) -> Parcel:
        """Return a parcel sent by this process."""
        return cls(payload, str(Path.cwd()), list(sys.path), versions())

    def unpack(self) -> tuple[Callable[[Any, int, OnProgress], Any], Any]:
        """Prepare this process, as its sender is, and return function and input.

        Raises:
            ZskdError: the folder is not there, or versions differ.
        """
        import torch

        node = f"node {platform.node()} of the Ray cluster"
        if different := [name for name, value in versions().items() if self.versions[name] != value]:
            name = different[0]
            raise ZskdError(
                f"{node} has {name} {versions()[name]}, and this process {self.versions[name]}: install the "
                "same versions everywhere"
            )
        if not Path(self.folder).is_dir():
            raise ZskdError(f"{node} has no folder {self.folder}: work in a folder that all nodes share")
        os.chdir(self.folder)
        sys.path += [folder for folder in self.path if folder not in sys.path]
        torch.set_num_threads(1)
        work, shared = pickle.loads(self.payload)
        return work, shared


class Units:
    """An actor that knows how many units the tasks have done; it lives beside the sender."""

    def __init__(self) -> None:
        self._done: dict[int, int] = {}

    def report(self, number: int, done: int) -> None:
        """Take the units that a task has done by now."""
        self._done[number] = done

    def done(self) -> dict[int, int]:
        """Return the units by number of the task."""
        return self._done


_unpacked: tuple[object, tuple[Callable[[Any, int, OnProgress], Any], Any]] | None = None
"""The reference of the last parcel, and what was in it."""


def run(parcel: list[Any], units: Any, number: int) -> tuple[Any, int]:
    """Run one task, and return its result and the units that it has done.

    Args:
        parcel: the reference of a `Parcel`.
        units: handle of the actor `Units`.
        number: of the task.
    """
    global _unpacked
    if _unpacked is None or _unpacked[0] != parcel[0]:
        import ray

        _unpacked = None  # room for the next
        _unpacked = (parcel[0], ray.get(parcel[0]).unpack())
    work, shared = _unpacked[1]
    done, told = 0, time.monotonic()

    def on_progress(more: int) -> None:
        nonlocal done, told
        done += more
        if time.monotonic() - told >= _REPORT_SECONDS:
            told = time.monotonic()
            units.report.remote(number, done)

    return work(shared, number, on_progress), done


def started(_shared: None, _number: int, _on_progress: OnProgress) -> None:
    """Do nothing: the worker is started."""
