"""Large images and many classes: what a set takes, beside what was told before. Writes results/sizes.json.

    python studies/sizes.py --out runs/sizes

Networks of torchvision with random weights, 224×224 pixels and 1,000 classes. `zskd synthesize` makes 64
images, all of them optimised, in a process of its own; the memory is that of this process and its workers
together, shared pages counted once.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from records import RESULTS
from zskd.core.device import processor
from zskd.core.extras import import_extra
from zskd.core.files import write_json
from zskd.core.versions import source_commit, versions
from zskd.models.checkpoint import Card, Origin, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.models.libraries.torchvision import TorchvisionNetwork
from zskd.transfer_set.dataset import TransferSet

NETWORKS = ("resnet18", "mobilenet_v2")
COUNT, STEPS = 64, 20
SETTINGS = ("--synthesis.noise-share", "0", "--synthesis.steps", str(STEPS), "--verbose")
TOLD = re.compile(r"images of \d+ steps at most, (?:(\d+) min )?(\d+) s at most")
TOLD_MEMORY = re.compile(r"about ([\d,]+) MB of memory")


def teacher_of(name: str, folder: Path) -> Path:
    """Save a network with random weights of a fixed seed as a checkpoint."""
    architecture = TorchvisionNetwork(torchvision=name)
    spec = InputSpec(shape=(3, 224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    teacher = Classifier(fresh_weights(architecture.build, 0), spec=spec, copy=False)
    return save_checkpoint(teacher, Card(architecture=architecture, origin=Origin(how="imported")), folder)


def field(status: str, name: str) -> int:
    """Return a field of /proc/PID/status in bytes."""
    sizes = (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name))
    return next(sizes, 0)  # a process that has ended has none


class Watched:
    """A process and those that it started: their largest memory in bytes, and the seconds of their cores."""

    def __init__(self, process: int) -> None:
        self.bytes, self._seconds = 0, dict[int, float]()
        self._root, self._ended = psutil.Process(process), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            own, shared = 0, 0
            with suppress(psutil.Error):
                for one in (self._root, *self._root.children(recursive=True)):
                    with suppress(OSError, psutil.Error):
                        self._seconds[one.pid] = sum(one.cpu_times()[:2])
                        status = Path(f"/proc/{one.pid}/status").read_text("ascii")
                        own += field(status, "RssAnon") + field(status, "RssShmem")
                        shared = max(shared, field(status, "RssFile"))
            self.bytes = max(self.bytes, own + shared)

    def stop(self) -> float:
        """Stop watching and return the seconds of all cores."""
        self._ended.set()
        self._thread.join()
        return sum(self._seconds.values())


def measure(name: str, out: Path) -> dict[str, Any]:
    """Make a set and return what it took and what was told."""
    teacher, folder = teacher_of(name, out / name / "teacher"), out / name / "set"
    arguments = ["synthesize", str(teacher), "--count", str(COUNT), "--out", str(folder), *SETTINGS]
    lines, begun = [], time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "zskd", *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    watched, load = Watched(process.pid), psutil.getloadavg()[0]
    assert process.stderr is not None
    for line in process.stderr:
        if TOLD.search(line):
            begun = time.perf_counter()
        lines.append(line.rstrip())
        print(line, end="", flush=True)
    seconds = time.perf_counter() - begun
    if process.wait():
        raise SystemExit("\n".join(lines))
    text = "\n".join(lines).replace(str(folder), "set").replace(str(teacher), "teacher")
    time_told, memory_told = TOLD.search(text), TOLD_MEMORY.search(text)
    assert time_told is not None
    assert memory_told is not None
    made = TransferSet(folder)
    resolved = made.manifest.resolved
    assert resolved is not None
    return {
        "network": name,
        "command": shlex.join(["zskd", "synthesize", "teacher", *arguments[2:4], "--out", "set", *SETTINGS]),
        "shape": list(made.shape),
        "classes": len(made.class_names),
        "count": len(made),
        "steps": made.manifest.mean_steps,
        "seconds": round(seconds, 1),
        "seconds_told": 60 * int(time_told[1] or 0) + int(time_told[2]),
        "seconds_per_image": round(seconds / len(made), 3),
        "core_seconds": round(watched.stop(), 1),
        "load_before": round(load, 1),
        "peak_bytes": watched.bytes,
        "bytes_told": 10**6 * int(memory_told[1].replace(",", "")),
        "set_bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "resolved": {key: value for key, value in resolved.to_json().items() if key != "merged"},
        "lines": [line for line in text.splitlines() if TOLD.search(line) or " together " in line],
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--record", type=Path, default=RESULTS / "sizes.json")
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    found = [measure(name, given.out) for name in NETWORKS]
    write_json(
        given.record,
        {
            "command": shlex.join(["python", *sys.argv]),
            "commit": source_commit(),
            "versions": {**versions(), "torchvision": import_extra("torchvision").__version__},
            "processor": processor(),
            "memory": psutil.virtual_memory().total,
            "networks": found,
        },
    )


if __name__ == "__main__":
    main()
