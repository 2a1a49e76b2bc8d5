"""Work on a Ray cluster of three nodes on this machine, with kills: are the bytes those of local processes?

`make cluster` installs Ray and runs it; it takes some minutes and about 4 GB of memory. It makes a transfer set
by `--engine local`, and then on the cluster: undisturbed; while a node is killed; and by a command that is killed
and started again. A second part makes the students of a run, and a third the cells of an experiment, with both engines.
It prints counts, and ends with exit code 1 if a byte differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

SHARDS = 12
SYNTHESIS = ["--count", str(20 * SHARDS - 7), "--synthesis.shard-size", "20", "--synthesis.steps", "400"]
SYNTHESIS += ["--synthesis.tolerance", "0", "--synthesis.noise-share", "0", "--quiet"]
STUDENTS = ["--count", "60", "--students", "narrow:0.5,width:0.5,lenet5_half", "--controls", "noise_shapes"]
STUDENTS += [
    "--distill.steps",
    "60",
    "--teacher.epochs",
    "2",
    "--held-out",
    "20",
    "--threads",
    "1",
    "--quiet",
]
EXPERIMENT = """
name: tiny
recipe: digits
settings:
  threads: 1
  teacher: {epochs: 2, shape: [1, 16, 16]}
  synthesis: {steps: 3, batch_size: 20, shard_size: 40}
  distill: {steps: 20, start: random}
arms:
  real_kd: {title: "KD, real images", images: real}
  default: {title: ZSKD, settings: {synthesis: {noise_share: 0.5}}}
plan:
  - {arms: [real_kd, default], rates: [5], seeds: 3}
"""


class Nodes:
    """A cluster of a head without CPUs and three nodes of one CPU, each with processes of its own."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        small = {"object_store_memory": 80_000_000, "memory": 2_000_000_000, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
        self.small = small
        self.nodes = [self.add() for _ in range(3)]
        self.cluster.wait_for_nodes()

    def add(self) -> Any:
        """Add a node."""
        small = {key: value for key, value in self.small.items() if key != "include_dashboard"}
        return self.cluster.add_node(num_cpus=1, **small)

    def kill(self) -> None:
        """Kill the raylet of the last node; what ran on it is lost."""
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)

    @property
    def engine(self) -> str:
        """Name of the engine."""
        return f"ray:{self.cluster.address}"


@contextmanager
def three_nodes() -> Iterator[Nodes]:
    """Start a cluster, and end it."""
    nodes = Nodes()
    try:
        yield nodes
    finally:
        nodes.cluster.shutdown()


def zskd(*arguments: object) -> subprocess.Popen[str]:
    """Start a command."""
    command = [sys.executable, "-m", "zskd", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen[str]) -> None:
    """Wait for a command; end this one where it failed."""
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, process.args))} ended with {process.returncode}:\n{output}")


def hashes(folder: Path, *patterns: str) -> dict[str, str]:
    """Return the hashes of files by their paths in a folder."""
    found = [path for pattern in patterns for path in sorted(folder.rglob(pattern)) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def different(folder: Path, other: Path, *patterns: str) -> tuple[int, int]:
    """Return the number of files in both folders, and of those that differ or are in one alone."""
    one, two = hashes(folder, *patterns), hashes(other, *patterns)
    names = one.keys() | two.keys()
    return len(names), sum(one.get(name) != two.get(name) for name in names)


def wait_for_shards(folder: Path, count: int, process: subprocess.Popen[str]) -> int:
    """Wait until so many shards are written, and return how many there are."""
    while (now := len(list(folder.glob("shard-*")))) < count:
        if process.poll() is not None:
            finished(process)
            sys.exit("the command ended before it was disturbed")
        time.sleep(0.05)
    return now


def sets(nodes: Nodes, work: Path) -> Iterator[dict[str, Any]]:
    """Make the same set in several ways; yield the counts of each."""
    teacher, local = work / "teacher", work / "set-local"
    finished(zskd("teacher", "train", "--data.name", "digits", "--teacher.epochs", 2, "--out", teacher))
    finished(zskd("synthesize", teacher, *SYNTHESIS, "--workers", 2, "--out", local))

    def on_cluster(name: str) -> tuple[subprocess.Popen[str], Path]:
        out = work / f"set-{name}"
        return zskd("synthesize", teacher, *SYNTHESIS, "--engine", nodes.engine, "--out", out), out

    def counts(what: str, out: Path, **more: int) -> dict[str, Any]:
        files, differ = different(local, out, "shard-*", "manifest.json")
        return {"what": what, **more, "files": files, "different": differ}

    process, out = on_cluster("undisturbed")
    finished(process)
    yield counts("set", out)

    process, out = on_cluster("node")
    before = wait_for_shards(out, 3, process)
    nodes.kill()
    finished(process)
    yield counts("set, a node killed", out, shards_before=before)
    nodes.nodes.append(nodes.add())
    nodes.cluster.wait_for_nodes()

    process, out = on_cluster("driver")
    before = wait_for_shards(out, 3, process)
    process.kill()
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    process, out = on_cluster("driver")
    finished(process)
    same = sum((out / name).stat().st_mtime_ns == time for name, time in kept.items())
    yield counts("set, the command killed and started again", out, shards_before=before, kept=same)


def students(nodes: Nodes, work: Path) -> Iterator[dict[str, Any]]:
    """Run a recipe with several students by both engines."""
    folders = {}
    for name, engine in (("local", "local"), ("ray", nodes.engine)):
        folders[name] = work / f"run-{name}"
        finished(zskd("run", "digits", *STUDENTS, "--engine", engine, "--out", folders[name]))
    files, differ = different(*folders.values(), "shard-*", "*.safetensors", "card.json")
    yield {"what": "a run with several students", "files": files, "different": differ}


def cells(nodes: Nodes, work: Path) -> Iterator[dict[str, Any]]:
    """Run some cells of the digits experiment by both engines; fingerprints of the students are compared."""
    found: dict[str, dict[str, str]] = {}
    recipe = work / "tiny.yaml"
    recipe.write_text(EXPERIMENT, encoding="utf-8")
    for name, engine in (("local", "local"), ("ray", nodes.engine)):
        out, results = work / f"cells-{name}", work / f"records-{name}"
        finished(zskd("reproduce", recipe, "--engine", engine, "--out", out, "--results", results, "--quiet"))
        records = (json.loads(path.read_text()) for path in results.rglob("*.json"))
        found[name] = {one["cell"]: one["student_sha256"] + str(one["test_hits"]) for one in records}
    names = found["local"].keys() | found["ray"].keys()
    differ = sum(found["local"].get(name) != found["ray"].get(name) for name in names)
    yield {"what": "cells of an experiment", "files": len(names), "different": differ}


def main() -> None:
    """Run all parts and print what they count."""
    parts: dict[str, Callable[[Nodes, Path], Iterator[dict[str, Any]]]] = {
        "sets": sets,
        "students": students,
        "cells": cells,
    }
    chosen = sys.argv[1:] or list(parts)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="zskd-cluster-") as folder, three_nodes() as nodes:
        for name in chosen:
            for counts in parts[name](nodes, Path(folder)):
                print(json.dumps(counts), flush=True)
                wrong += counts["different"] or not counts["files"]
    print(f"{wrong} different")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
