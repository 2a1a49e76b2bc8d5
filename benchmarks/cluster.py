"""Work on a Ray cluster of three nodes on this machine, with kills: are the bytes those of local processes?

`make cluster` installs Ray and runs it; it takes some minutes and about 4 GB of memory. It makes a transfer
set by `--engine local`, and then on the cluster: undisturbed; while a node is killed; by a command that is
interrupted by Ctrl-C, and by one that is killed, each started again. A second part makes the students of a
run, and a third the cells of an experiment, with both engines. It prints counts, and ends with exit code 1 if
a byte differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from origin import made_with
from zskd.config.engines import open_engine
from zskd.core.engines.base import Need
from zskd.core.engines.node import started
from zskd.core.errors import ZskdError
from zskd.core.files import write_json

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

SHARDS = 8
SYNTHESIS = ["--count", str(20 * SHARDS - 7), "--synthesis.shard-size", "20", "--synthesis.steps", "150"]
SYNTHESIS += ["--synthesis.tolerance", "0", "--synthesis.noise-share", "0", "--quiet"]
STUDENTS = ["--count", "60", "--students", "narrow:0.5,width:0.5,lenet5_half", "--controls", "noise_shapes"]
STUDENTS += ["--distill.steps", "60", "--teacher.epochs", "2", "--held-out", "20", "--quiet"]
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

    def counts(what: str, out: Path, **more: float) -> dict[str, Any]:
        files, differ = different(local, out, "shard-*", "manifest.json")
        return {"what": what, **more, "files": files, "different": differ}

    process, out = on_cluster("undisturbed")
    finished(process)
    yield counts("set", out)

    process, out = on_cluster("node")
    before = wait_for_shards(out, 2, process)
    nodes.kill()
    finished(process)
    yield counts("set, a node killed", out, shards_before=before)
    nodes.nodes.append(nodes.add())
    nodes.cluster.wait_for_nodes()

    for what, stop in (("interrupted", signal.SIGINT), ("killed", signal.SIGKILL)):
        process, out = on_cluster(what)
        wait_for_shards(out, 2, process)
        process.send_signal(stop)
        stopped = time.monotonic()
        process.communicate()
        seconds = round(time.monotonic() - stopped, 1)
        kept = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")}
        process, out = on_cluster(what)
        finished(process)
        same = sum((out / name).stat().st_mtime_ns == written for name, written in kept.items())
        what = f"set, the command {what} and started again"
        yield counts(what, out, shards_before=len(kept), kept=same, seconds_to_stop=seconds)


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


def refusals(nodes: Nodes, work: Path) -> Iterator[dict[str, Any]]:
    """Ask for more than any node has, and for a cluster where nobody answers: each must end in one line."""
    cases = (
        (nodes.engine, Need(threads=64), "no node of the Ray cluster has what a task needs, 64 CPU"),
        ("ray:127.0.0.1:1", Need(), "nobody answers at 127.0.0.1:1"),
    )
    wrong = 0
    for name, need, line in cases:
        ray.shutdown()
        try:
            list(open_engine(name).each_done(started, None, [0], workers=1, need=need, on_progress=print))
            wrong += 1
        except ZskdError as error:
            wrong += line not in str(error) or "\n" in str(error)
    ray.shutdown()
    yield {"what": "wrong uses that end in one line", "files": len(cases), "different": wrong}


PARTS: dict[str, Callable[[Nodes, Path], Iterator[dict[str, Any]]]] = {
    "sets": sets,
    "students": students,
    "cells": cells,
    "refusals": refusals,
}


def main() -> None:
    """Run the parts and print what they count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; absent: all")
    parser.add_argument("--out", type=Path, help="file for a record")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="zskd-cluster-") as folder, three_nodes() as nodes:
        started = time.monotonic()
        for name in given.parts or PARTS:
            for counts in PARTS[name](nodes, Path(folder)):
                found.append(counts | {"seconds": round(time.monotonic() - started)})
                print(json.dumps(found[-1]), flush=True)
                started = time.monotonic()
    wrong = sum(one["different"] for one in found)
    if given.out is not None:
        write_json(given.out, {**made_with("ray"), "counts": found})
    print(f"{wrong} different")
    sys.exit(wrong > 0 or not all(one["files"] for one in found))


if __name__ == "__main__":
    main()
