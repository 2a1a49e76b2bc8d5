"""Does `zskd plan` foresee a run, and its simulation real workers? Writes results/plan.json.

    python studies/plan.py --out runs/plan

In each round the recipe is planned with two workers, and then run with one and with two, all in processes of
their own. The simulation is compared with tasks that only sleep, on up to 64 workers of this machine: they
need no core. Last, a larger set is planned for up to 1,000 workers. The load of the machine is recorded, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from records import RESULTS, Line, made_with
from zskd.core.engines.base import Need
from zskd.core.engines.local import LocalEngine
from zskd.core.engines.overhead import measure_overhead
from zskd.core.files import write_json
from zskd.core.schedule import seconds_until_done

RECIPE = ("digits", "--count", "4000", "--controls", "none", "--distill.steps", "400")
LARGE = ("digits", "--count", "1000000", "--controls", "none", "--distill.steps", "20000")
WORKERS = (1, 2)
FAR = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
SLEEPERS, TASKS, SLEEP = (2, 8, 32, 64), 320, 0.2


def zskd(*arguments: str) -> tuple[Line, int]:
    """Run the command, and return its document and the bytes of the largest of its worker processes."""
    command = [sys.executable, "-m", "zskd", *arguments, "--json", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        largest = 0
        while process.poll() is None:
            time.sleep(0.1)
            with suppress(psutil.Error):  # a process that has ended
                workers = psutil.Process(process.pid).children(recursive=True)
                largest = max([largest, *(one.memory_info().rss for one in workers)])
        assert process.stdout is not None
        document: Line = json.loads(process.stdout.read())
    return document, largest


def planned(recipe: tuple[str, ...], workers: tuple[int, ...], seconds: float) -> Line:
    """Return the document of a plan that was measured with two workers."""
    began = time.perf_counter()
    numbers = ("--for-workers", *map(str, workers))
    told, _ = zskd("plan", *recipe, "--workers", "2", "--seconds", f"{seconds:g}", *numbers)
    return {"load": load(), "planning_seconds": round(time.perf_counter() - began, 1), **told}


def ran(workers: int, out: Path) -> Line:
    """Run the recipe in a new folder; return its seconds by stage, and what its files and passes are."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    metrics, largest = zskd("run", *RECIPE, "--workers", str(workers), "--out", str(out))
    passes = metrics["passes"].values()
    return {
        "workers": workers,
        "load": load(),
        "seconds": round(time.perf_counter() - began, 1),
        "seconds_by_stage": metrics["seconds"],
        "largest_worker_bytes": largest,
        "teacher_passes": sum(one["teacher_forward"] + one["teacher_backward"] for one in passes),
        "student_passes": sum(one["student_forward"] + one["student_backward"] for one in passes),
        "bytes": sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
    }


def load() -> float:
    """Return the load of the machine over the last minute: processes that want a core, these included."""
    return round(os.getloadavg()[0], 1)


def sleep(seconds: float, _number: int, _on_progress: Callable[[int], None]) -> None:
    """Do nothing for some seconds."""
    time.sleep(seconds)


def slept(workers: int) -> Line:
    """Return the seconds of tasks that sleep, measured, and simulated with what empty tasks take."""
    engine = LocalEngine()
    overhead = measure_overhead(engine, workers)
    began = time.perf_counter()
    done = engine.each_done(
        sleep, SLEEP, range(TASKS), workers=workers, need=Need(), on_progress=lambda _: None
    )
    count = sum(1 for _ in done)
    measured = time.perf_counter() - began
    simulated = overhead.start + seconds_until_done([SLEEP] * count, workers, between=overhead.task)
    return {
        "workers": workers,
        "tasks": count,
        "seconds_of_a_task": SLEEP,
        "start_seconds": round(overhead.start, 3),
        "seconds_per_task": round(overhead.task, 5),
        "simulated": round(simulated, 2),
        "measured": round(measured, 2),
        "load": load(),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--record", type=Path, default=RESULTS / "plan.json")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    record: Line = {
        "recipe": " ".join(RECIPE),
        "large_recipe": " ".join(LARGE),
        "sleeping": [slept(workers) for workers in SLEEPERS],
        "large": planned(LARGE, FAR, given.seconds),
        **made_with(),
        "rounds": [],
    }
    for number in range(given.rounds):
        plan = planned(RECIPE, WORKERS, given.seconds)
        runs = [ran(workers, given.out) for workers in WORKERS]
        record["rounds"].append({"plan": plan, "runs": runs})
        write_json(given.record, record)
        print(number, [one["seconds"] for one in (*plan["workers"], *runs)], flush=True)
    print(f"saved in {given.record}")


if __name__ == "__main__":
    main()
