"""Energy counters in a folder, laid out as the kernel does, and work that uses energy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zskd.core.progress import Progress, Task

RANGE = 65_532_610_987
"""Largest value of a counter, in µJ, of processors that count in units of 15.3 µJ."""


class Powercap:
    """The folders of a machine with two packages, in sysfs.

    The first package has a part; a zone of the whole computer and one that shows the first package a second
    time stand beside them.

    Args:
        root: a new folder, for /sys.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / "class" / "powercap"
        self.folder.mkdir(parents=True)
        devices = root / "devices" / "virtual" / "powercap"
        for kind in ("intel-rapl", "intel-rapl-mmio"):
            (devices / kind).mkdir(parents=True)
            (devices / kind / "enabled").write_text("1\n")
            (self.folder / kind).symlink_to(devices / kind)
        self.packages = [
            self._zone(devices / "intel-rapl" / f"intel-rapl:{number}", f"package-{number}")
            for number in range(2)
        ]
        self.others = [
            self._zone(devices / "intel-rapl" / "intel-rapl:0" / "intel-rapl:0:0", "core"),
            self._zone(devices / "intel-rapl" / "intel-rapl:2", "psys"),
            self._zone(devices / "intel-rapl-mmio" / "intel-rapl-mmio:0", "package-0"),
        ]

    def _zone(self, device: Path, name: str) -> Path:
        """Make a zone, and return its counter."""
        device.mkdir()
        (device / "name").write_text(f"{name}\n")
        (device / "max_energy_range_uj").write_text(f"{RANGE}\n")
        (device / "energy_uj").write_text("0\n")
        (self.folder / device.name).symlink_to(device)
        return device / "energy_uj"

    def use(self, counter: Path, microjoules: int) -> None:
        """Let a counter rise; above its largest value it begins again."""
        now = (int(counter.read_text()) + microjoules) % (RANGE + 1)
        # renamed: a reader sees the whole value, as that of the kernel
        whole = counter.with_suffix(".part")
        whole.write_text(f"{now}\n")
        whole.rename(counter)


class Work(Progress):
    """Uses 1.25 J of each package in every task of a run, and 9 J of the first between its stages.

    Args:
        machine: whose counters rise.
    """

    def __init__(self, machine: Powercap) -> None:
        self.machine = machine
        self.joules: list[float] = []
        """Of each stage, in the order of the run."""

    def log(self, text: str) -> None:
        if text[1:5] == " of ":  # told before the stage begins
            self.machine.use(self.machine.packages[0], 9_000_000)
            self.joules.append(0.0)

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        for counter in self.machine.packages:
            self.machine.use(counter, 1_250_000)
        self.joules[-1] += 2.5
        with super().task(title, total, unit, done) as task:
            yield task
