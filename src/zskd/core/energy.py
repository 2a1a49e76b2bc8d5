"""Energy of the machine's processors, from the counters that Linux shows in its powercap interface (RAPL).

Source: Documentation/power/powercap/powercap.rst and drivers/powercap/intel_rapl_common.c of the kernel; the
interface is the same for processors of Intel and AMD. A counter is that of a whole package: it also counts
what other programs do, and neither memory outside of the package nor a GPU in a slot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

from zskd.core.artefact import Artefact, Joules, Name

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows the counters."""
MEASURED = "measured"
NO_COUNTERS = "the system shows no energy counters of its processors"
NO_RIGHT = "only the administrator of the system may read the energy counters of its processors"
_EVERY_SECONDS = 10.0
"""Between two readings: the smallest range in use, 65 kJ, lasts two minutes at 500 W."""
_ZONES = "intel-rapl:*"
"""`intel-rapl-mmio:0` is the package `intel-rapl:0` again."""
_PACKAGE = re.compile(r"package-\d+(-die-\d+)?")
"""Name of a zone. Those of its parts, as `core`, are counted in it, and `psys` counts the whole computer."""


class StageEnergy(Artefact):
    """Energy by stage, in a file of its own."""

    joules: dict[Name, Joules]


@dataclass(frozen=True)
class _Counter:
    path: Path
    most: int
    """Largest value, in µJ; the next one is 0."""

    def spent(self, before: int, now: int) -> int:
        """Return the µJ between two values that are less than a range apart."""
        return (now - before) % (self.most + 1)


class Meter:
    """The energy counters of all processor packages.

    Args:
        folder: where the system shows them; None: nothing is measured.
        every: seconds between two readings.
    """

    def __init__(self, folder: Path | None = POWERCAP, *, every: float = _EVERY_SECONDS) -> None:
        self._every = every
        self._counters: list[_Counter] = []
        self.outcome = NO_COUNTERS
        """`measured`, or why there is nothing to measure."""
        if folder is None:
            return
        try:
            found = _counters(folder)
            _read(found)
        except PermissionError:
            self.outcome = NO_RIGHT
        except (OSError, ValueError):  # no Linux, or a container that hides them
            return
        else:
            self._counters = found
            self.outcome = MEASURED if found else NO_COUNTERS

    def block(self) -> Energy:
        """Return what measures one block."""
        return Energy(self._counters, self._every)


class Energy:
    """Measures a block. A thread reads the counters as long as it runs, because they begin again at 0.

    Args:
        counters: of all packages.
        every: seconds between two readings.
    """

    def __init__(self, counters: Sequence[_Counter], every: float) -> None:
        self._counters, self._every = counters, every
        self._last: list[int] | None = None
        self._microjoules = 0
        self._ended = Event()
        self._reader = Thread(target=self._read_on, name="zskd-energy", daemon=True)

    @property
    def joules(self) -> float | None:
        """Of all packages since the block began, up to the last reading; None: not known."""
        return None if self._last is None else self._microjoules / 1e6

    def __enter__(self) -> Energy:
        """Begin to measure."""
        if self._counters:
            self._last = _read_or_none(self._counters)
            self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Read for the last time, when the thread is gone."""
        if self._counters:
            self._ended.set()
            self._reader.join()
            self._add()

    def _read_on(self) -> None:
        while not self._ended.wait(self._every):
            self._add()

    def _add(self) -> None:
        """Add what was used since the last reading; after one that failed nothing is known any more."""
        now = None if self._last is None else _read_or_none(self._counters)
        if self._last is not None and now is not None:
            pairs = zip(self._counters, self._last, now, strict=True)
            self._microjoules += sum(counter.spent(before, after) for counter, before, after in pairs)
        self._last = now


def _counters(folder: Path) -> list[_Counter]:
    """Return the counters of all packages.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file does not hold a number.
    """
    return [
        _Counter(zone / "energy_uj", _number(zone / "max_energy_range_uj"))
        for zone in folder.glob(_ZONES)
        if _PACKAGE.fullmatch((zone / "name").read_text("ascii").strip())
    ]


def _read(counters: Sequence[_Counter]) -> list[int]:
    return [_number(counter.path) for counter in counters]


def _read_or_none(counters: Sequence[_Counter]) -> list[int] | None:
    try:
        return _read(counters)
    except (OSError, ValueError):
        return None


def _number(path: Path) -> int:
    return int(path.read_text("ascii"))


def readable_joules(joules: float) -> str:
    """Return an energy in joules as text: `12 J`, `3.4 kJ`, `1.25 MJ`."""
    for unit in ("J", "kJ", "MJ"):
        if round(joules) < 1000:
            return f"{joules:.3g} {unit}"
        joules /= 1000
    return f"{joules:.3g} GJ"
