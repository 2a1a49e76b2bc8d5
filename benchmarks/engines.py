"""What a shard costs beside its own work: local processes and a Ray cluster on the same machine.

`python benchmarks/engines.py` needs `pip install 'zskd[ray]'`. Both engines make the same sets, in turns,
with as many workers as there are cores; Ray runs on this machine alone, so that only the engine differs.
Workers of Ray stay from one set to the next, and local ones start with each. Bytes are compared. Empty tasks
show what an engine takes for a task at most.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import zskd
from origin import made_with
from zskd.config.engines import open_engine
from zskd.core.engines.base import Engine
from zskd.core.engines.overhead import empty_task_seconds
from zskd.core.files import write_json
from zskd.models.factory import build, describe, fresh_weights
from zskd.synthesis.build import make_shards

ENGINES = ("local", "ray")
TASKS = 200
"""Empty ones."""


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/engines.json"))
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    engines = {name: open_engine(name) for name in ENGINES}
    workers = engines["local"].cores()
    first = {name: timed(lambda one=one: one.start(workers)) for name, one in engines.items()}
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(engines, workers, given.shards, given.rounds, Path(folder))
    record = {
        **made_with("ray"),
        "workers": workers,
        "first_start_seconds": first,
        **measured,
    }
    write_json(given.out, record)
    print(f"saved in {given.out}")


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of some work."""
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 3)


def measure(
    engines: dict[str, Engine], workers: int, shards: int, rounds: int, folder: Path
) -> dict[str, Any]:
    """Time the same shards, and empty tasks, in turns; compare the bytes.

    Args:
        engines: by name.
        workers: of each.
        shards: of the set.
        rounds: how often.
        folder: for the sets.
    """
    data = zskd.load_data(zskd.DataConfig(name="digits"), (1, 32, 32))
    architecture = describe("lenet5", shape=(1, 32, 32), classes=10)
    network = fresh_weights(lambda: build(architecture, run_code=False), seed=0)
    teacher = zskd.Classifier(network, spec=zskd.InputSpec(shape=(1, 32, 32)))
    teacher = zskd.train_teacher(teacher, data, zskd.TeacherConfig(epochs=2), seed=0)
    synthesis = zskd.SynthesisConfig(steps=20, tolerance=0.0, noise_share=0.0, batch_size=20, shard_size=20)
    spec = zskd.SetSpec(count=20 * shards, seed=0, synthesis=synthesis)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    tasks: dict[str, list[float]] = {name: [] for name in engines}
    found: dict[str, list[str]] = {}
    for turn in range(rounds):
        for name, engine in engines.items():
            out = folder / f"{name}-{turn}"
            seconds[name].append(timed(partial(made, teacher, spec, out, engine, workers, shards)))
            found[name] = [
                hashlib.sha256(one.read_bytes()).hexdigest() for one in sorted(out.glob("shard-*"))
            ]
            tasks[name].append(round(empty_task_seconds(engine, workers, TASKS), 3))
        print(turn, {name: all_of[-1] for name, all_of in seconds.items()}, flush=True)
    alone = timed(lambda: made(teacher, spec, folder / "alone", engines["local"], 1, shards))
    different = sum(one != two for one, two in zip(*found.values(), strict=True))
    return {
        "shards": shards,
        "rounds": rounds,
        "one_process_seconds": alone,
        "different_shards": different,
        "engines": {
            name: {
                "seconds": seconds[name],
                "seconds_per_shard": round(statistics.median(seconds[name]) / shards, 4),
                "empty_tasks": TASKS,
                "seconds_per_empty_task": round(statistics.median(tasks[name]) / TASKS, 5),
            }
            for name in engines
        },
    }


def made(
    teacher: zskd.Classifier, spec: zskd.SetSpec, out: Path, engine: Engine, workers: int, shards: int
) -> None:
    """Make all shards; the pool of processes starts with them, as in every use."""
    for _ in make_shards(
        teacher, spec, out, range(shards), workers=workers, engine=engine, on_progress=lambda _: None
    ):
        pass


if __name__ == "__main__":
    main()
