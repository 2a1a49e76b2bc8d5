"""The tables of docs/better.md, from the records of the frozen default and of the search for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from zskd.experiment.plan import TEACHER, load_experiment
from zskd.report.page import comparisons_of, records_of
from zskd.report.statistics import compare_paired, summarise
from zskd.report.tables import Records, accuracies, accuracy_table, contrast_table, markdown_table, provenance

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT / "benchmarks"))
from minutes import read_lines  # noqa: E402

_RESULTS = _ROOT / "results"
_TITLES = {"better-mnist": "MNIST", "better-fashion-mnist": "Fashion-MNIST"}
_TWINS = ("transposed", "inverted", "permuted")
_AIMS = {"better-fashion-mnist": (87.0, 2.7), "better-mnist": (99.1, 0.2)}
"""Least accuracy, and most points below KD with real images; set before the search."""
_PLAYED = ("dfad", "zskt")
"""Presets without a transfer set."""
_UNSEEN = "better-fashion-mnist"
_RATE = 40.0
_SIZES = (1.0, 10.0, 40.0)
_TODAY = ("real_kd_all_plain", "real_kd_all", "noise_shapes", "default", "small")
"""Arms of the README's table."""
_DEFAULT = ("real_kd_all", "real_kd_all_plain", "noise_shapes", "default")
_HEAD = ("teacher", "KD, real images", "the same, not augmented", "random shapes", "default")
_DATA = {"mnist": "MNIST", "filled": "MNIST, filled", "permuted": "MNIST, permuted"}


@cache
def _found(name: str) -> Records | None:
    """Records of an experiment or of its twin; None where none have been made yet."""
    origin = load_experiment(next(one for one in _TITLES if name.startswith(one)))
    return records_of(replace(origin, name=name), _RESULTS) if (_RESULTS / name).is_dir() else None


def _existing() -> dict[str, Records]:
    return {name: records for name in _TITLES if (records := _found(name)) is not None}


def _of_teacher(records: Records, arm: str, rate: float | None, teacher: str) -> list[float]:
    group = records.at(arm, rate).values()
    return [one.test_accuracy for one in group if one.teacher_sha256 == teacher]


def teachers() -> str:
    """The frozen default by teacher, beside noise and real data."""
    rows = []
    for name, records in _existing().items():
        for seed, teacher in records.at(TEACHER, None).items():
            row = [_TITLES[name], f"{teacher.test_accuracy:.2f}"]
            for arm in _DEFAULT:
                rate = None if arm.startswith("real") else _RATE
                values = _of_teacher(records, arm, rate, teacher.teacher_sha256)
                row.append(str(summarise(values)) if values else "–")
            rows.append((f"{seed}", *row))
    return markdown_table(("first seed", "data", *_HEAD), rows)


def today() -> str:
    """The README's table: the default beside noise and real data, of the first teacher."""
    rows = []
    for name, records in _existing().items():
        teacher = records.at(TEACHER, None)[0]
        told = "–" if teacher.reported is None else f"{teacher.reported.value:.2f}"
        rows.append(
            (_TITLES[name], "teacher", f"{teacher.count:,}", f"{teacher.test_accuracy:.2f}", "–", told)
        )
        for arm in _TODAY:
            rate = None if arm.startswith("real") else _RATE
            same = teacher.teacher_sha256
            group = [one for one in records.at(arm, rate).values() if one.teacher_sha256 == same]
            if not group:
                continue
            measured = str(summarise(one.test_accuracy for one in group))
            seconds = f"{mean(one.wall_seconds for one in group):.0f}"
            told = "–" if group[0].reported is None else f"{group[0].reported.value:.2f}"
            rows.append((_TITLES[name], records.title(arm), f"{group[0].count:,}", measured, seconds, told))
    head = ("data", "arm", "images", "test accuracy, measured", "seconds on one core", "published")
    return markdown_table(head, rows)


def aims() -> str:
    """What was aimed at before the search, beside what the frozen default reached with the first teacher."""
    rows = []
    for name, (least, furthest) in _AIMS.items():
        records = _found(name)
        if records is None:
            continue
        same = records.at(TEACHER, None)[0].teacher_sha256
        found = summarise(_of_teacher(records, "default", _RATE, same))
        rows.append((f"{_TITLES[name]}, default", f"≥ {least:.2f}", str(found)))
        for arm in ("real_kd_all", "real_kd_all_plain"):
            pairs = [accuracies(records.at(one, rate)) for one, rate in ((arm, None), ("default", _RATE))]
            seeds = sorted(pairs[0].keys() & pairs[1].keys())
            if seeds:
                below = summarise(pairs[0][seed] - pairs[1][seed] for seed in seeds)
                what = f"{_TITLES[name]}, below {records.title(arm)}, at equal steps"
                rows.append((what, f"≤ {furthest:.2f}", str(below)))
    small = _existing()["better-mnist"].at("small", _RATE)
    if small:
        rows.append(("MNIST, student with 15,738", "≥ 98.60", str(summarise(accuracies(small).values()))))
    return markdown_table(("what", "aim", "reached"), rows)


def sizes() -> str:
    """The default and smooth noise by the size of the set, beside the reproduction's published curve."""
    rows: list[list[str]] = []
    for name, records in _existing().items():
        for arm in ("noise_smooth", "default"):
            groups = [records.at(arm, rate) for rate in _SIZES]
            if any(groups):
                cells = [str(summarise(accuracies(group).values())) if group else "–" for group in groups]
                rows.append([_TITLES[name], records.title(arm), *cells])
    curve = next(one.at for one in load_experiment("mnist").reported if one.arm == "reproduction")
    told = [f"*{curve[f'{rate:g}']:.2f}*" for rate in _SIZES]
    rows.append(["MNIST", "*published: the reproduction, best epoch on test images*", *told])
    return markdown_table(("data", "arm", *(f"{rate:g} %" for rate in _SIZES)), rows)


def minutes() -> str:
    """What a student becomes in a given time, by preset."""
    rows = []
    for line in read_lines():
        images = "made as it learns" if line["preset"] in _PLAYED else f"{line['images']:,}"
        facts = (f"{line['seconds']:.0f}", images, f"{line['steps']:,}", f"{line['accuracy']:.2f}")
        data = _TITLES[f"better-{line['data']}"]
        rows.append((data, f"{line['minutes']:g}", line["preset"], *facts))
    rows.sort(key=lambda row: (row[0] != "MNIST", float(row[1]), row[2]))
    head = ("data", "minutes given", "preset", "seconds taken", "images", "steps", "test accuracy")
    return markdown_table(head, rows)


def twins() -> str:
    """What the default and the noise lose on twins of the data."""
    rows = []
    for name, title in _TITLES.items():
        for twin in ("", *(f"-{one}" for one in _TWINS)):
            records = _found(f"{name}{twin}")
            if records is None:
                continue
            seeds = set(records.at("default", _RATE)) & set(records.at("noise_shapes", _RATE))
            row = [title, twin.removeprefix("-") or "as it is"]
            row.append(f"{next(iter(records.at(TEACHER, None).values())).test_accuracy:.2f}")
            for arm in _DEFAULT:
                group = records.at(arm, None if arm.startswith("real") else _RATE)
                some = {seed: group[seed] for seed in group if seed in seeds or arm.startswith("real")}
                row.append(str(summarise(accuracies(some).values())) if some else "–")
            rows.append(row)
    return markdown_table(("data", "twin", *_HEAD), rows)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def search() -> str:
    """Every trial of the search."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in _lines(_RESULTS / "tuning" / "better.jsonl"):
        if "agreement" in line:
            seen = line.get("images_seen") or _seen(line["settings"]["distill"])
            groups.setdefault((line["data"], line["name"], f"{seen / 1e6:.2f}"), []).append(line)
    rows = []
    for (data, name, seen), lines in sorted(groups.items(), key=lambda item: (item[0][0], item[0][2])):
        agreement, accuracy = (mean(one[what] for one in lines) for what in ("agreement", "accuracy"))
        facts = (f"{lines[0]['teacher']:.2f}", f"{agreement:.2f}", f"{accuracy:.2f}", f"{len(lines)}")
        rows.append((_DATA[data], name, seen, *facts))
    head = ("data", "trial", "10⁶ images seen", "teacher", "agreement", "accuracy", "n")
    return markdown_table(head, rows)


def ablation() -> str:
    """What agreement each change of the default costs or brings, paired over seeds."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for line in _lines(_RESULTS / "tuning" / "ablation.jsonl"):
        if "agreement" in line:
            found.setdefault((line["data"], line["name"]), {})[line["seed"]] = line["agreement"]
    plan = yaml.safe_load((_ROOT / "benchmarks" / "ablation.yaml").read_text(encoding="utf-8"))
    rows = [["default"], *([name] for name in plan["trials"] if name != "default")]
    for data in plan["data"]:
        base = found[data, "default"]
        rows[0].append(str(summarise(base.values())))
        for row in rows[1:]:
            trial = found.get((data, row[0]), {})
            if not base.keys() & trial.keys():
                row.append("–")
                continue
            one = compare_paired(trial, base, names=(row[0], "default"))
            spread = "" if one.deviation is None else f" ± {one.deviation:.2f}"
            row.append(f"{one.mean:+.2f}{spread} (n = {one.n})")
    return markdown_table(("trial", *(_DATA[data] for data in plan["data"])), rows)


def _seen(distill: dict[str, Any]) -> int:
    """Return what older lines do not say; those that name no batch left it as it was frozen first."""
    return int(distill["steps"] * distill.get("batch_size", 256))


def frozen() -> str:
    """What was frozen, when and why, and what the first run on Fashion-MNIST gave with it."""
    lines = _lines(_RESULTS / "frozen.jsonl")
    looks = [look for look in _lines(_RESULTS / "ledger.jsonl") if look["experiment"] == _UNSEEN]
    ends = [line["frozen"] for line in lines[1:]] + ["later"]
    rows = []
    for number, (line, end) in enumerate(zip(lines, ends, strict=True), 1):
        since = [look for look in looks if line["frozen"] <= look["time"] < end]
        first = [
            next((f"{look['test_accuracy']:.2f}" for look in since if look["cell"] == cell), "–")
            for cell in ("noise_shapes-40-0", "default-40-0")
        ]
        commit = (line["commit"] or "–")[:8]
        rows.append((f"{number}", line["frozen"], f"`{line['sha256'][:12]}`", commit, line["why"], *first))
    head = (
        "",
        "frozen",
        "settings",
        "commit",
        "why",
        "random shapes, Fashion-MNIST",
        "default, Fashion-MNIST",
    )
    return markdown_table(head, rows)


def _each(tell: Callable[[str, Records], str]) -> Callable[[], str]:
    def all_of() -> str:
        found = _existing().items()
        return "\n\n".join(f"**{_TITLES[name]}.**\n\n{tell(name, records)}" for name, records in found)

    return all_of


BETTER_TABLES: dict[str, Callable[[], str]] = {
    "better-frozen": frozen,
    "better-today": today,
    "better-aims": aims,
    "better-sizes": sizes,
    "better-minutes": minutes,
    "better-teachers": teachers,
    "better-arms": _each(lambda _, records: accuracy_table(records)),
    "better-contrasts": _each(
        lambda name, records: contrast_table(records, comparisons_of(load_experiment(name)))
    ),
    "better-provenance": _each(lambda _, records: provenance(records)),
    "better-twins": twins,
    "better-search": search,
    "better-ablation": ablation,
}
