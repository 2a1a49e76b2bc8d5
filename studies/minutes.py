"""Test accuracy of students made in a given time: runs with a budget, added to results/minutes.json.

    python studies/minutes.py fashion-mnist --data-dir data --teacher runs/teacher --minutes 1 3 10
    python studies/minutes.py fashion-mnist --data-dir data --teacher runs/teacher --presets dfad zskt
    python studies/minutes.py cifar-public --data-dir cifar --teacher teachers/resnet20-12fca82f.th \
        --presets batch_norm --minutes 60

`cifar-public` is the public ResNet-20 with CIFAR-10 in folders, as in the bench, whose arms can be given as
presets, too: `noise_procedural`. Its networks compute in the given precision (bfloat16 is slower than float32
on processors that emulate it). Run it on a machine without other load. A finished run is not run a second
time.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any, get_args

from records import RESULTS, Line, read_lines, write_lines
from zskd.config.loading import load_recipe
from zskd.config.yaml import merge
from zskd.core.precision import Precision
from zskd.core.progress import Progress
from zskd.experiment.definition import load_experiment
from zskd.run.pipeline import run_recipe

LINES = RESULTS / "minutes.json"
PUBLIC = "cifar-public"
FEW = 20
"""Images of each kind that agreement is measured on, which no line has."""
MOST = 60_000
"""Images of a set on which its time does not put a limit."""


def measure(data: str, preset: str, minutes: float, given: argparse.Namespace) -> Line:
    """Make a student in so many minutes and return its line; the test set is used here."""
    settings: dict[str, Any] = {
        "preset": preset,
        "budget": minutes,
        "seed": given.seed,
        "controls": [],
        "held_out": FEW,
        "teacher": {"path": str(given.teacher)},
        "data": {"dir": given.data_dir},
    }
    recipe = data
    if data == PUBLIC:
        bench = load_experiment("bench-cifar-public")
        recipe = bench.recipe
        of_bench = {key: bench.settings[key] for key in ("student", "teacher", "data", "synthesis")}
        path = {"path": f"resnet20@{given.teacher}"}
        precision = {"precision": given.precision}
        computing = {"synthesis": precision, "distill": precision}
        if preset in bench.arms:  # a control: the default's student on other pictures
            settings |= {"preset": bench.settings["preset"]} | bench.arms[preset].settings
        settings = merge(merge(of_bench, settings), {"count": MOST, "teacher": path})
        settings = merge(settings, computing)
    folder = given.out / f"{data}-{preset}-{minutes:g}-{given.seed}-{given.precision}"
    command = shlex.join(["python", *sys.argv])
    metrics = run_recipe(load_recipe(recipe, settings), folder, progress=Progress(), command=command)
    (arm,) = metrics.arms
    beside = ("teacher", "evaluation")
    spent = {stage: seconds for stage, seconds in metrics.seconds.items() if stage not in beside}
    return {
        "data": data,
        "preset": preset,
        "minutes": minutes,
        "seed": given.seed,
        "precision": given.precision,
        "images": arm.count,
        "steps": metrics.student_steps,
        "seconds": round(sum(spent.values()), 1),
        "accuracy": arm.test_accuracy.percent,
        "teacher": metrics.teacher.test_accuracy.percent,
        "teacher_sha256": metrics.teacher.sha256,
        **{fact: getattr(metrics, fact) for fact in ("versions", "processor", "commit", "command")},
    }


def _which(line: Line) -> tuple[Any, ...]:
    """Return what a line was measured of; the first lines did not tell their precision."""
    found = {"precision": "bfloat16" if line["data"] == PUBLIC else "float32"} | line
    return tuple(found[key] for key in ("data", "preset", "minutes", "seed", "precision"))


def main() -> None:
    """Measure and write, one run after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=("mnist", "fashion-mnist", PUBLIC))
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[10.0])
    parser.add_argument("--presets", nargs="+", default=["default"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=get_args(Precision), default="float32")
    parser.add_argument("--out", type=Path, default=Path("runs/minutes"))
    given = parser.parse_args()
    for preset in given.presets:
        for minutes in given.minutes:
            line = measure(given.data, preset, minutes, given)
            others = [one for one in read_lines(LINES) if _which(one) != _which(line)]
            write_lines(LINES, sorted([*others, line], key=_which))
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
