"""A step of one student in one process and in two, and the sum of gradients that two send each other.

`python benchmarks/ranks.py` starts itself by `torchrun`, in turns with one process and with two, with one
thread each. Teacher and student are a ResNet-20; each step is one of the default. Seconds of the clock
depend on what else runs on the machine; those of the processor, of the first process, hardly do, and waiting
for another process takes none.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import distributed

import zskd
from origin import made_with
from resnet20 import resnet20
from zskd.core.device import use_threads
from zskd.core.files import write_json
from zskd.core.memory import keep_freed_memory
from zskd.core.ranks import Ranks
from zskd.data.transforms import augment
from zskd.distillation.architecture import describe_student, fresh_student

BATCH = 128
WORLDS = (1, 2)
WEIGHTS = {"ResNet-20": 272_474, "ResNet-18": 11_173_962}
"""Numbers in a message: the gradient of each network for ten classes."""
_MESSAGES = 10


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/ranks.json"))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", type=Path, help="given to the processes that it starts")
    given = parser.parse_args()
    if given.set is not None:
        measure(given.set, given.steps, given.out)
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "set"
        zskd.build_transfer_set(resnet20(), zskd.SetSpec(method="noise", count=300), images, workers=1)
        found: dict[int, list[dict[str, float]]] = {world: [] for world in WORLDS}
        for turn in range(given.rounds):
            for world in WORLDS:
                found[world].append(measured(world, images, given.steps, Path(folder) / "found.json"))
                print(turn, world, found[world][-1], flush=True)
    record = {
        **made_with(),
        "load": round(load, 1),
        "batch": BATCH,
        "steps": given.steps,
        "rounds": given.rounds,
        "ranks": {
            str(world): {key: [one[key] for one in rounds] for key in rounds[0]}
            for world, rounds in found.items()
        },
    }
    write_json(given.out, record)
    print(f"saved in {given.out}")


def measured(world: int, images: Path, steps: int, out: Path) -> dict[str, float]:
    """Return what `measure` finds in so many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world), __file__]
    own = ["--set", str(images), "--steps", str(steps), "--out", str(out)]
    subprocess.run([sys.executable, *launcher, *own], check=True)
    found: dict[str, float] = json.loads(out.read_text("utf-8"))
    return found


def measure(images: Path, steps: int, out: Path) -> None:
    """Time steps and messages in this process, one of those of `torchrun`; the first writes what it found.

    Args:
        images: folder of the transfer set.
        steps: that are timed.
        out: file for seconds of the clock and of the processor for a step; for the changes of a batch, which
            each process makes for all of its images; and the least for a message of each size of `WEIGHTS`.
    """
    distributed.init_process_group("gloo")
    ranks = Ranks.joined()
    keep_freed_memory()
    with use_threads(1):
        teacher, made = resnet20(), zskd.TransferSet(images)
        student = fresh_student(describe_student("resnet20", teacher), teacher, 0).module
        config = zskd.DistillConfig(start="random", batch_size=BATCH, images="memory")

        def run(count: int) -> None:
            zskd.distill(teacher, student, made, replace(config, steps=count), ranks=ranks)

        run(2)
        clock, work = zip(*(timed(partial(run, count), ranks) for count in (2, 2 + steps)), strict=True)
        pictures = made.images(torch.arange(BATCH))
        changes = [
            timed(lambda: augment(pictures, config.augment, (0.0, 1.0), torch.Generator()), ranks)[1]
            for _ in range(5)
        ]
        found = {
            "seconds": (clock[1] - clock[0]) / steps,
            "processor_seconds": (work[1] - work[0]) / steps,
            "changes_seconds": median(changes),
        }
        for name, count in WEIGHTS.items():
            send = partial(ranks.average, [torch.zeros(count)], 0.5)
            found[f"message {name}"] = min(timed(send, ranks)[0] for _ in range(_MESSAGES))
    if ranks.first:
        write_json(out, {key: round(value, 5) for key, value in found.items()})
    distributed.destroy_process_group()


def timed(run: Callable[[], object], ranks: Ranks) -> tuple[float, float]:
    """Return seconds of the clock and of the processor, begun by all processes together."""
    ranks.wait()
    clock, work = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - work


if __name__ == "__main__":
    main()
