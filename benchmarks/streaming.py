"""Memory and time of a student's pass over 100,000 small images, by how the set is read.

`python benchmarks/streaming.py` writes a set of random images of 3×32×32 (1.2 GB in float32, 0.3 GB in 8
bits), and trains a student of one layer for a pass over it, each time in a process of its own. The peak is
that of the resident memory, which counts mapped pages of files, too (VmHWM of Linux); opening and checking
the set is a part of it. The files are in the cache of the system, so that the time is not that of a disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import zskd
from origin import made_with
from zskd.core.device import use_threads
from zskd.core.files import write_json
from zskd.transfer_set.manifest import Provenance
from zskd.transfer_set.shard import Shard, write_shard
from zskd.transfer_set.storage import Storage, round_to
from zskd.transfer_set.writer import Writer

SHAPE = (3, 32, 32)
CLASSES = 10
IN_A_SHARD = 1000
LIMIT_MB = 500
READINGS = (("memory", "shuffled"), ("mapped", "shuffled"), ("mapped", "by_shard"))
"""`distill.images` and `distill.order`."""


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/streaming.json"))
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one_pass(Path(given.one[0]), *given.one[1:])))
        return
    rows = []
    for storage in ("float32", "uint8"):
        with tempfile.TemporaryDirectory() as folder:
            size = write_set(Path(folder), given.images, storage)
            for images, order in READINGS:
                found = elsewhere(folder, images, order)
                rows.append({"storage": storage, "set_mb": size, "images": images, "order": order, **found})
                print(rows[-1], flush=True)
    record = {
        **made_with(),
        "count": given.images,
        "shape": SHAPE,
        "limit_mb": LIMIT_MB,
        "window_mb": zskd.DistillConfig().window_mb,
        "rows": rows,
    }
    write_json(given.out, record)
    print(f"saved in {given.out}")


def teacher() -> zskd.Classifier:
    """Return a network of one layer: what it takes itself is small beside the images."""
    torch.manual_seed(0)
    return zskd.Classifier(linear(), spec=zskd.InputSpec(shape=SHAPE)).freeze()


def linear() -> nn.Module:
    """Return a layer of new random weights."""
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(SHAPE[0] * 64, CLASSES))


def write_set(folder: Path, images: int, storage: Storage) -> int:
    """Write a set of random images and return its size in MB."""
    provenance = Provenance(spec={"method": "noise"}, teacher_sha256=teacher().fingerprint())
    names = tuple(map(str, range(CLASSES)))
    writer = Writer(folder, provenance, class_names=names, shape=SHAPE)
    for number in range(images // IN_A_SHARD):
        numbers = torch.Generator().manual_seed(number)
        pictures = round_to(torch.rand(IN_A_SHARD, *SHAPE, generator=numbers), storage, (0.0, 1.0))
        logits, steps = torch.zeros(IN_A_SHARD, CLASSES), torch.zeros(IN_A_SHARD, dtype=torch.int32)
        anchors = torch.arange(IN_A_SHARD) % CLASSES
        shard = Shard(pictures, logits.softmax(1), logits, anchors, steps, steps.float())
        writer.add(number, write_shard(folder, number, shard, storage=storage))
    writer.finish()
    return sum(path.stat().st_size for path in folder.iterdir()) // 10**6


def elsewhere(folder: str, images: str, order: str) -> dict[str, float]:
    """Return what `one_pass` measures in a new process."""
    command = [sys.executable, __file__, "--one", folder, images, order]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def one_pass(folder: Path, images: str, order: str) -> dict[str, float]:
    """Open a set, train for one pass, and return seconds, and the memory before and at the peak in MB."""
    network, before, started = teacher(), resident("VmRSS"), time.perf_counter()
    with use_threads(1):
        opened = zskd.TransferSet(folder)
        ready = time.perf_counter()
        config = zskd.DistillConfig(
            epochs=1,
            steps=None,
            start="random",
            optimiser="adam",
            augment=zskd.AugmentConfig(),
            images=images,  # type: ignore[arg-type]
            order=order,  # type: ignore[arg-type]
        )
        zskd.distill(network, linear(), opened, config)
    ended = time.perf_counter()
    return {
        "import_mb": before,
        "peak_mb": resident("VmHWM"),
        "open_seconds": round(ready - started, 1),
        "pass_seconds": round(ended - ready, 1),
    }


def resident(name: str) -> int:
    """Return the resident memory of this process in MB: now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 // 10**6 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
