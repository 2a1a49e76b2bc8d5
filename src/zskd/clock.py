"""How long each stage of some work took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zskd.files import read_json, write_json


class Clock:
    """Seconds per stage in a JSON file, added up over interruptions; what `kill -9` cut off is lost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = read_json(path, "the timings of a run") if path.is_file() else {}

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
