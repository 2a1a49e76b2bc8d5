"""The tables of docs/bench.md: sources of pictures and parts of the default for several teachers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from records import RESULTS, read_lines
from tables.common import in_words
from zskd.evaluation.statistics import Difference, compare_paired, summarise
from zskd.experiment.definition import experiment_names, load_experiment
from zskd.experiment.report.page import records_of
from zskd.experiment.report.tables import Group, Records, accuracies, markdown_table, provenance

_BEST = "real_kd_all"
"""Arm that the others are compared with: what data would give, at the same number of steps."""
_ABLATION, _DEFAULT, _SEEDS = "bench-colour-resnet8", "default", 3
"""Plan whose arms change one part of the default, its arm, and the seeds that a comparison needs."""


def results(name: str) -> str:
    """Agreement and accuracy of each arm, and how far it is below students of all real images."""
    experiment, records = load_experiment(name), _records(name)
    best = records.at(_BEST, None)
    rows = []
    for arm in experiment.arms:
        for rate in sorted(records.rates(arm)) or [None]:
            group = records.at(arm, rate)
            if group:
                rows.append(_row(records.title(arm), group, best))
    head = ("pictures", "images", "agreement", "accuracy", "below real images", "minutes")
    return markdown_table(head, rows)


def _row(title: str, group: Group, best: Group) -> tuple[str, ...]:
    records = list(group.values())
    common = sorted(group.keys() & best.keys())
    of_arm, of_best = accuracies(group), accuracies(best)
    below = summarise([of_best[seed] - of_arm[seed] for seed in common]) if common else None
    return (
        title,
        f"{records[0].count:,}",
        in_words(summarise([one.teacher_agreement for one in records])),
        in_words(summarise(of_arm.values())),
        "–" if below is None or group is best else in_words(below),
        f"{sum(one.wall_seconds for one in records) / len(records) / 60:.1f}",
    )


def parts() -> str:
    """What other pictures, or the default without one of its parts, change: paired over seeds."""
    records = _records(_ABLATION)
    default = next(group for rate in records.rates(_DEFAULT) if (group := records.at(_DEFAULT, rate)))
    rows = []
    for arm in load_experiment(_ABLATION).arms:
        for rate in sorted(records.rates(arm)):
            group = records.at(arm, rate)
            if arm == _DEFAULT or len(group.keys() & default.keys()) < _SEEDS:
                continue
            changes = (
                compare_paired(values(group), values(default), names=(arm, _DEFAULT))
                for values in (_agreements, accuracies)
            )
            rows.append((records.title(arm), *(cell for one in changes for cell in _change(one))))
    head = ("instead of the default", "agreement", "95 % interval", "accuracy", "95 % interval")
    return markdown_table(head, rows)


def _change(found: Difference) -> tuple[str, str]:
    interval = "–" if found.low is None else f"[{found.low:+.1f}, {found.high:+.1f}]"
    return f"{found.mean:+.1f} ± {found.deviation:.1f}", interval


def _agreements(group: Group) -> dict[int, float]:
    return {seed: record.teacher_agreement for seed, record in group.items()}


def minutes() -> str:
    """What a budget of time gave on the public network."""
    rows = [
        (
            f"{line['minutes']:g}",
            f"{line['seconds'] / 60:.1f}",
            f"`{line['preset']}`",
            line.get("precision", "bfloat16"),  # which the first runs could not choose
            f"{line['images']:,}",
            f"{line['steps']:,}",
            f"{line['accuracy']:.1f}",
        )
        for line in read_lines(RESULTS / "minutes.json")
        if line["data"] == "cifar-public"
    ]
    return markdown_table(
        ("minutes given", "taken", "preset", "precision", "images", "steps", "accuracy"), rows
    )


def about(name: str) -> str:
    """How the table was made."""
    records = _records(name)
    one = next(iter(records.at(_BEST, None).values()))
    return (
        f"Teacher {one.teacher_accuracy:.2f} %, student `{one.student}`, {one.student_steps:,} steps; "
        f"n = {one.test_images:,} test images; ± is the standard deviation over seeds, a number without it "
        f"is of one seed. {provenance(records)}"
    )


def _records(name: str) -> Records:
    return records_of(load_experiment(name), RESULTS)


_NAMES = [name for name in experiment_names() if name.startswith("bench-") and (RESULTS / name).is_dir()]
BENCH_TABLES: dict[str, Callable[[], str]] = {
    name: table
    for bench in _NAMES
    for name, table in ((bench, partial(results, bench)), (f"{bench}-about", partial(about, bench)))
} | {"bench-parts": parts, "bench-minutes": minutes}
