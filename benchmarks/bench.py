"""The speed of zskd, relative to plain PyTorch and to the limit of this machine: `make bench`.

Each measurement runs in its own process; implementations to compare run in turn. The results are saved as
JSON with versions, processor and commit; the tables of docs/speed.md are computed from them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import measures
import zskd
from apart import log, run_apart
from origin import made_with
from zskd.core.device import usable_cores, use_threads
from zskd.core.files import write_json
from zskd.core.progress import PlainProgress
from zskd.teacher.sources import make_teacher, open_sources

MARK = 97.5
"""Test accuracy in percent that the shortest budget should reach."""
BUDGETS = ((1000, 100), (2000, 200), (4000, 400), (8000, 800), (24000, 2400))
"""Numbers of images and student steps, the shortest first."""
SEEDS = (0, 1, 2)
"""Of the students."""
SAME_STEPS = 600
"""Steps of the students that compare sets; they start from random weights, so that only the sets differ."""
SHORT = 15
"""Steps of a fast set."""
TURNS = 2
"""How often two implementations are timed in turn."""


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist", choices=("mnist", "digits"))
    parser.add_argument("--data-dir", type=Path, help="where MNIST lies; absent: downloaded once")
    parser.add_argument("--out", type=Path, default=Path("results/speed.json"))
    parser.add_argument("--count", type=int, default=500, help="impressions that all implementations make")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="folder of teacher and sets")
    arguments = parser.parse_args()
    data = zskd.DataConfig(name=arguments.data, dir=arguments.data_dir)
    teacher = _teacher(data, arguments.work / f"teacher-{data.name}")
    arguments.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.work) as scratch:
        bench = Bench(teacher, data, Path(scratch), arguments.count)
        record = {
            **made_with(),
            "data": data.name,
            "sets": bench.sets(),
            "impression_step": bench.impression_steps(),
            "distilled_image": bench.distilled_images(),
            "default_set": bench.default_sets(),
            "budget": bench.budget() if data.name == "mnist" else None,
            "growth": bench.growth(),
        }
    write_json(arguments.out, record)
    print(f"saved in {arguments.out}")


class Bench:
    """The measurements, in the order in which they are made."""

    def __init__(self, teacher: Path, data: zskd.DataConfig, scratch: Path, count: int) -> None:
        self._teacher, self._data, self._scratch, self._count = teacher, data, scratch, count

    def sets(self) -> dict[str, dict[str, Any]]:
        """Sets of several implementations for the same targets, and students of these sets."""
        ours = self._scratch / "zskd"
        found = {"zskd": run_apart(measures.targets_file, self._teacher, self._count, ours)}
        found[f"zskd, {SHORT} steps"] = run_apart(
            measures.targets_file, self._teacher, self._count, self._scratch / "short", SHORT
        )
        for name, settings in (("plain, zskd's settings", "ours"), ("plain, reproduction's", "reproduction")):
            folder = self._scratch / settings
            found[name] = run_apart(measures.plain_set, self._teacher, ours, folder, settings)
        config = zskd.DistillConfig(steps=SAME_STEPS, start="random")
        for name, folder in zip(found, ("zskd", "short", "ours", "reproduction"), strict=True):
            path = self._scratch / folder
            students = [
                run_apart(measures.student, self._teacher, path, config, seed, self._data) for seed in SEEDS
            ]
            row = found[name]
            row["per_second"] = row["images"] / row["seconds"]
            row["student_steps"] = SAME_STEPS
            row["test_accuracy"] = [one["test_accuracy"] for one in students]
            log(
                f"{name}: {row['per_second']:,.1f} impressions/s, "
                f"KL {row['mean_kl']:.3f} at τ = {row['tau']:g}, "
                f"{row['argmax_match']:.1f} % of their class, students {mean(row['test_accuracy']):.2f} % "
                f"(n = {len(SEEDS)})"
            )
        return found

    def impression_steps(self) -> dict[str, Any]:
        """µs for one step of one impression on one thread, its limit, and the effect of each optimisation."""
        names = ("plain", "zskd", "not rewritten", "freed memory given back", "in bfloat16")
        runs = {name: partial(run_apart, measures.impression_step, self._teacher, name) for name in names}
        found = self._in_turn("one step of one impression, 1 core", runs)
        found["compiled"] = run_apart(measures.compiled_step, self._teacher)
        found["profile"] = run_apart(measures.profile, self._teacher)
        for row in found["profile"]:
            log(f"    {row['microseconds']:6.2f} µs  {row['operation']}")
        return found

    def distilled_images(self) -> dict[str, Any]:
        """µs for one distilled image, on one thread and on all cores."""
        folder = self._scratch / "zskd"
        return {
            title: self._in_turn(
                f"one distilled image, {title}",
                {
                    name: partial(run_apart, measures.distilled_image, self._teacher, folder, name, cores)
                    for name in ("plain", "zskd")
                },
            )
            for title, cores in (("1 core", 1), ("all cores", usable_cores()))
        }

    def default_sets(self, count: int = 24_000) -> list[dict[str, Any]]:
        """Seconds for the set of the MNIST recipe, and for as many images that are all optimised."""
        rows = []
        for settings in ({}, {"noise_share": 0.0}, {"noise_share": 0.0, "steps": SHORT}):
            path = self._scratch / "default"
            seconds = run_apart(measures.default_set, self._teacher, count, settings, 0, path)
            shutil.rmtree(path)
            rows.append({"images": count, "settings": settings, "seconds": seconds})
            log(f"{count:,} images, {settings or 'default'}: {seconds:.1f} s")
        return rows

    def budget(self) -> dict[str, Any]:
        """The shortest budget whose last weights reach MARK with every seed; training never stops early.

        Controls with the same budget: without impressions, and without the teacher's weights.
        """
        tried: list[dict[str, Any]] = []
        for count, steps in BUDGETS:
            tried.append(self._students("default", count, steps, {}, {}))
            if min(tried[-1]["test_accuracy"]) >= MARK:
                break
        controls = [
            self._students("smooth noise", count, steps, {"noise_share": 1.0, "start": "smooth"}, {}),
            self._students("default, random start", count, steps, {}, {"start": "random"}),
        ]
        reached = min(tried[-1]["test_accuracy"]) >= MARK
        return {"mark": MARK, "reached": reached, "tried": tried, "controls": controls}

    def _students(
        self, arm: str, count: int, steps: int, synthesis: dict[str, Any], distill: dict[str, Any]
    ) -> dict[str, Any]:
        """Sets and students of one budget, one per seed."""
        rows = []
        for seed in SEEDS:
            path = self._scratch / "budget"
            made = run_apart(measures.default_set, self._teacher, count, synthesis, seed, path)
            config = zskd.DistillConfig(steps=steps, **distill)
            one = run_apart(measures.student, self._teacher, path, config, seed, self._data)
            shutil.rmtree(path)
            rows.append({"seconds": made + one["seconds"], "test_accuracy": one["test_accuracy"]})
        seconds, accuracies = mean(row["seconds"] for row in rows), [row["test_accuracy"] for row in rows]
        shown = ", ".join(f"{value:.2f}" for value in accuracies)
        log(f"{arm}: {count:,} images, {steps:,} steps: {seconds:.1f} s, test accuracy {shown}")
        facts = {"arm": arm, "images": count, "student_steps": steps}
        return facts | {"seconds": seconds, "test_accuracy": accuracies}

    def growth(self) -> list[dict[str, Any]]:
        """Time and memory with 1, 2, 4, 8 times the images, and with 1 and 2 workers."""
        rows = []
        for workers in (1, 2):
            for times in (1, 2, 4, 8):
                path = self._scratch / "growth"
                rows.append(run_apart(measures.growth, self._teacher, 2000 * times, workers, path))
                shutil.rmtree(path)
                log(
                    f"{rows[-1]['images']:,} images, {workers} workers: {rows[-1]['seconds']:.1f} s, "
                    f"{rows[-1]['peak_megabytes']:.0f} MB"
                )
        return rows

    @staticmethod
    def _in_turn(title: str, runs: dict[str, Callable[[], dict[str, float]]]) -> dict[str, Any]:
        rounds = [{name: run() for name, run in runs.items()} for _ in range(TURNS)]
        found: dict[str, Any] = {
            name: {key: median(one[name][key] for one in rounds) for key in ("microseconds", "limit")}
            for name in runs
        }
        found["ratio"] = median(one["plain"]["microseconds"] / one["zskd"]["microseconds"] for one in rounds)
        found["times_limit"] = median(one["zskd"]["microseconds"] / one["zskd"]["limit"] for one in rounds)
        plain, ours = found["plain"], found["zskd"]
        log(
            f"{title}: plain {plain['microseconds']:.1f} µs, zskd {ours['microseconds']:.1f} µs "
            f"({found['ratio']:.2f} times as fast), {found['times_limit']:.1f} times the limit of "
            f"{ours['limit']:.1f} µs"
        )
        for name in runs.keys() - {"plain", "zskd"}:
            log(f"    {name}: {found[name]['microseconds']:.1f} µs")
        return found


def _teacher(data: zskd.DataConfig, folder: Path) -> Path:
    """Train the teacher of the recipe, unless the folder has it; continue an interrupted training."""
    overrides = {"data": {"dir": None if data.dir is None else str(data.dir)}}
    recipe = zskd.load_recipe(data.name, overrides)
    with use_threads(1):
        make_teacher(recipe, open_sources(recipe), folder, PlainProgress())
    return folder


if __name__ == "__main__":
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # for the measurements, which are processes of their own
    main()
