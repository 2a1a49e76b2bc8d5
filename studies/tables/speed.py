"""The tables of docs/speed.md, from results/speed.json and older records of speed."""

from __future__ import annotations

import json
import statistics
from typing import Any

from records import RESULTS, read_appended
from tables.common import TITLES
from zskd.core.tables import markdown_table


def speed() -> dict[str, Any]:
    """Return the record of the benchmark."""
    return _record("speed")


def speed_machine() -> str:
    """Where and when the benchmark was run."""
    record = speed()
    machine = record["processor"]
    rate = 1 / record["impression_step"]["zskd"]["limit"]
    return (
        f"`{record['command']}` on {record['date']}, commit {str(record['commit'])[:8]}, torch "
        f"{record['versions']['torch']}, {machine['name']} with {machine['cores']} cores. At the rate of a "
        f"large matrix product one core computes at most {1e6 * rate:,.0f} steps of an impression per second."
    )


def speed_reach() -> str:
    """Aims and measured values."""
    record = speed()
    sets, step = record["sets"], record["impression_step"]
    base = sets["plain, reproduction's"]
    default, full, short = record["default_set"]
    rates = [row["images"] / row["seconds"] / base["per_second"] for row in (default, full, short)]
    images = record["distilled_image"]["all cores"]
    largest = max(row["images"] for row in record["growth"])
    by_workers = {row["workers"]: row["seconds"] for row in record["growth"] if row["images"] == largest}
    rows = [
        ("impressions per second, relative to the plain loop with the reproduction's settings", "≥ 200 ×",
         f"{rates[1]:.0f} ×; {rates[2]:.0f} × with {short['settings']['steps']} steps; "
         f"{rates[0]:.0f} × for the default's images, noise included"),
        (f"{full['images']:,} impressions of LeNet-5", "≤ 30 s", f"{full['seconds']:.1f} s"),
        (f"{default['images']:,} images of the default, noise included", "–",
         f"{default['seconds']:.1f} s"),
        ("a step of one impression, relative to the machine's limit", "≤ 5 ×",
         f"{step['times_limit']:.1f} ×"),
        ("distilled images/s, all cores, relative to the plain loop", "≥ 2.5 ×", f"{images['ratio']:.2f} ×"),
        (f"speed of 2 workers relative to 1, {largest:,} images", "≥ 1.8 ×",
         f"{by_workers[1] / by_workers[2]:.2f} ×"),
    ]  # fmt: skip
    return markdown_table(("measure", "aim", "measured"), rows)


def speed_sets() -> str:
    """Several implementations for the same targets, and the students of their sets."""
    head = ("implementation", "impressions/s", "KL(y‖T) at τ", "argmax match", "student's test accuracy")
    rows = [
        (
            name,
            f"{row['per_second']:,.1f}",
            f"{row['mean_kl']:.3f} at {row['tau']:g}",
            f"{row['argmax_match']:.1f} %",
            f"{_mean(row['test_accuracy'])} (n = {len(row['test_accuracy'])})",
        )
        for name, row in speed()["sets"].items()
    ]
    return markdown_table(head, rows)


def speed_steps() -> str:
    """Time for one step of one impression, and the effect of each optimisation."""
    step = speed()["impression_step"]
    names = [name for name in step if name not in ("ratio", "times_limit", "profile", "compiled")]
    rows = [(name, f"{step[name]['microseconds']:.1f}") for name in names]
    compiled = step["compiled"]
    first = f"not rewritten, `torch.compile` (after {compiled['first_seconds']:.0f} s of compilation)"
    rows += [(first, f"{compiled['microseconds']:.1f}"), ("limit", f"{step['zskd']['limit']:.1f}")]
    return markdown_table(("implementation, one core", "µs"), rows)


def speed_profile() -> str:
    """Time for each operation in one step of one impression."""
    rows = [
        (
            f"`{row['operation']}`" if "::" in row["operation"] else row["operation"],
            f"{row['microseconds']:.1f}",
        )
        for row in speed()["impression_step"]["profile"]
    ]
    return markdown_table(("operation", "µs"), rows)


def speed_distilled() -> str:
    """Time for one image in one step of distillation."""
    rows = [
        (
            title,
            f"{row['plain']['microseconds']:.1f}",
            f"{row['zskd']['microseconds']:.1f}",
            f"{row['ratio']:.2f} ×",
            f"{row['zskd']['limit']:.1f}",
        )
        for title, row in speed()["distilled_image"].items()
    ]
    return markdown_table(("", "plain, µs", "zskd, µs", "ratio", "limit, µs"), rows)


def speed_budget() -> str:
    """Budgets, the shortest first, and controls with the last."""
    budget = speed()["budget"]
    rows = [
        (
            row["arm"],
            f"{row['images']:,}",
            f"{row['student_steps']:,}",
            f"{row['seconds']:.0f} s",
            ", ".join(f"{value:.2f}" for value in row["test_accuracy"]),
        )
        for row in (*budget["tried"], *budget["controls"])
    ]
    return markdown_table(
        ("arm", "images", "student steps", "synthesis and distillation", "test accuracy, each seed"), rows
    )


def speed_growth() -> str:
    """Time and memory by number of images and workers."""
    rows = [
        (
            f"{row['images']:,}",
            str(row["workers"]),
            f"{row['seconds']:.1f} s",
            f"{row['peak_megabytes']:.0f} MB",
        )
        for row in speed()["growth"]
    ]
    return markdown_table(("impressions", "workers", "time", "peak anonymous memory, all processes"), rows)


def speed_quality() -> str:
    """Students before and after the optimisation for speed: same teacher, same seeds."""
    rows = []
    for data in ("digits", "mnist"):
        pairs = []
        for file in sorted((RESULTS / "before-after").glob(f"{data}-*-before.json")):
            runs = (file, file.with_name(file.name.replace("before", "after")))
            pairs.append([json.loads(run.read_text(encoding="utf-8")) for run in runs])
        accuracies = [[run["arms"][0]["test_accuracy"]["percent"] for run in pair] for pair in pairs]
        before, after = [old for old, _ in accuracies], [new for _, new in accuracies]
        change = [new - old for old, new in accuracies]
        cells = (TITLES[data], str(len(pairs)), _mean(before), _mean(after), _mean(change, signed=True))
        rows.append(cells)
    return markdown_table(("data", "seeds", "before", "after", "change, paired"), rows)


def speed_search() -> str:
    """The search for fewer steps, on digits and MNIST."""
    found: dict[tuple[str, ...], dict[int, dict[str, Any]]] = {}
    for row in read_appended(RESULTS / "tuning" / "steps.jsonl"):
        settings = row["settings"]
        rate, tolerance = settings.get("learning_rate", 0.1), settings.get("tolerance", 0.0)
        key = (TITLES[row["data"]], str(settings.get("steps", 50)), f"{rate:g}", f"{tolerance:g}")
        found.setdefault(key, {})[row["seed"]] = row
    rows = []
    for key, runs in sorted(found.items(), key=lambda one: (one[0][0], -float(one[0][1]), one[0][2:])):
        both = [_mean([run[fact] for run in runs.values()]) for fact in ("mean_steps", "agree")]
        rows.append((*key, both[0].split(" ")[0], f"{both[1]} (n = {len(runs)})"))
    return markdown_table(("data", "most steps", "learning rate", "tolerance", "steps", "agreement"), rows)


def resnet20() -> dict[str, Any]:
    """Return the record of the steps of a ResNet-20."""
    return _record("resnet20")


def resnet20_steps() -> str:
    """Each step beside the bare networks and their arithmetic."""
    rows = [
        (
            title,
            f"{of['passes_per_second']:,.0f}",
            f"{of['microseconds']:,.0f}",
            f"{of['times_limit']:.2f}",
            f"{of['microseconds'] / of['arithmetic']:.2f}",
            f"{of['peak_megabytes']:,.0f} MB",
        )
        for title, of in resnet20()["steps"].items()
    ]
    head = (
        "step",
        "teacher passes/s",
        "µs per image",
        "times bare networks",
        "times arithmetic",
        "peak memory",
    )
    return markdown_table(head, rows)


def resnet20_pictures() -> str:
    """Start images of 3×32×32 that one core draws."""
    rows = [(f"`{kind}`", f"{per_second:,.0f}") for kind, per_second in resnet20()["pictures"].items()]
    return markdown_table(("start images of 3×32×32", "drawn per second by one core"), rows)


def resnet20_machine() -> str:
    """Where and when it was measured, and what bfloat16 brings there."""
    record = resnet20()
    half, machine = record["bfloat16"], record["processor"]
    return (
        f"`{record['command']}` on {record['date']}, commit {record['commit'][:8]}, torch "
        f"{record['versions']['torch']}, {machine['name']}. The teacher's forward pass in bfloat16 takes "
        f"{1 / half['times']:.1f} times as long there, and changes logits by up to {half['change']:.1%} of "
        "the largest."
    )


SPEED_TABLES = {
    "resnet20-machine": resnet20_machine,
    "resnet20-pictures": resnet20_pictures,
    "resnet20-steps": resnet20_steps,
    "speed-machine": speed_machine,
    "speed-reach": speed_reach,
    "speed-sets": speed_sets,
    "speed-steps": speed_steps,
    "speed-profile": speed_profile,
    "speed-search": speed_search,
    "speed-distilled": speed_distilled,
    "speed-budget": speed_budget,
    "speed-growth": speed_growth,
    "speed-quality": speed_quality,
}
"""By the names of their blocks."""


def _record(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return record


def _mean(values: list[float], *, signed: bool = False) -> str:
    mean = f"{statistics.mean(values):{'+' if signed else ''}.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"
