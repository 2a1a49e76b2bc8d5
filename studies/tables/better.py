"""The tables of docs/better.md that come from the records of the frozen default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from statistics import mean

from records import RESULTS
from zskd.core.tables import markdown_table
from zskd.evaluation.statistics import summarise
from zskd.experiment.definition import TEACHER, load_experiment
from zskd.experiment.record import Record
from zskd.experiment.report.page import comparisons_of, records_of
from zskd.experiment.report.tables import (
    Group,
    Records,
    accuracies,
    accuracy_table,
    contrast_table,
    provenance,
)

_TITLES = {"better-mnist": "MNIST", "better-fashion-mnist": "Fashion-MNIST"}
_TWINS = ("transposed", "inverted", "permuted")
_AIMS = {"better-fashion-mnist": (87.0, 2.7), "better-mnist": (99.1, 0.2)}
"""Least accuracy, and most points below KD with real images; set before the search."""
_RATE = 40.0
_SIZES = (1.0, 10.0, 40.0)
_TODAY = ("real_kd_all_plain", "real_kd_all", "noise_shapes", "default", "small")
"""Arms of that table."""
_DEFAULT = ("real_kd_all", "real_kd_all_plain", "noise_shapes", "default")
_HEAD = ("teacher", "KD, real images", "the same, not augmented", "random shapes", "default")


@cache
def _found(name: str) -> Records | None:
    """Records of an experiment or of its twin; None where there are none."""
    origin = load_experiment(next(one for one in _TITLES if name.startswith(one)))
    return records_of(replace(origin, name=name), RESULTS) if (RESULTS / name).is_dir() else None


def _existing() -> dict[str, Records]:
    return {name: records for name in _TITLES if (records := _found(name)) is not None}


def _group(records: Records, arm: str, teacher: Record | None = None, size: float = _RATE) -> Group:
    """Records of an arm by seed, for one teacher (None: the first); `size` is the rate of a made set."""
    teacher = teacher or records.at(TEACHER, None)[0]
    group = records.at(arm, None if arm.startswith("real") else size)
    return {seed: one for seed, one in group.items() if one.teacher_sha256 == teacher.teacher_sha256}


def _summary(group: Group) -> str:
    return str(summarise(accuracies(group).values())) if group else "–"


def teachers() -> str:
    """The frozen default by teacher, with noise and real data."""
    rows = []
    for name, records in _existing().items():
        for seed, teacher in records.at(TEACHER, None).items():
            students = (_summary(_group(records, arm, teacher)) for arm in _DEFAULT)
            rows.append((f"{seed}", _TITLES[name], f"{teacher.test_accuracy:.2f}", *students))
    return markdown_table(("first seed", "data", *_HEAD), rows)


def today() -> str:
    """The default, noise and real data, with the first teacher, and the published figures."""
    rows = []
    for name, records in _existing().items():
        teacher = records.at(TEACHER, None)[0]
        published = "–" if teacher.reported is None else f"{teacher.reported.value:.2f}"
        cells = (f"{teacher.count:,}", f"{teacher.test_accuracy:.2f}", "–", published)
        rows.append((_TITLES[name], "teacher", *cells))
        for arm in _TODAY:
            group = _group(records, arm)
            if not group:
                continue
            one = next(iter(group.values()))
            seconds = f"{mean(one.wall_seconds for one in group.values()):.0f}"
            published = "–" if one.reported is None else f"{one.reported.value:.2f}"
            cells = (f"{one.count:,}", _summary(group), seconds, published)
            rows.append((_TITLES[name], records.title(arm), *cells))
    head = ("data", "arm", "images", "test accuracy, measured", "seconds on one core", "published")
    return markdown_table(head, rows)


def aims() -> str:
    """The aims of before the search, and the results of the frozen default with the first teacher."""
    rows = []
    for name, (least, furthest) in _AIMS.items():
        records = _found(name)
        if records is None or not _group(records, "default"):
            continue
        rows.append((f"{_TITLES[name]}, default", f"≥ {least:.2f}", _summary(_group(records, "default"))))
        for arm in ("real_kd_all", "real_kd_all_plain"):
            pairs = [accuracies(_group(records, one)) for one in (arm, "default")]
            seeds = sorted(pairs[0].keys() & pairs[1].keys())
            if seeds:
                below = summarise([pairs[0][seed] - pairs[1][seed] for seed in seeds])
                what = f"{_TITLES[name]}, below {records.title(arm)}, at equal steps"
                rows.append((what, f"≤ {furthest:.2f}", str(below)))
    small = _group(_existing()["better-mnist"], "small")
    rows.append(("MNIST, student with 15,738 parameters", "≥ 98.60", _summary(small)))
    return markdown_table(("what", "aim", "reached"), rows)


def sizes() -> str:
    """The default and smooth noise by size of the set, with the first teacher, and the published curve of the
    reproduction."""
    rows: list[list[str]] = []
    for name, records in _existing().items():
        for arm in ("noise_smooth", "default"):
            groups = [_group(records, arm, size=size) for size in _SIZES]
            if any(groups):
                rows.append([_TITLES[name], records.title(arm), *map(_summary, groups)])
    curve = next(one.at for one in load_experiment("mnist").reported if one.arm == "reproduction")
    published = [f"*{curve[f'{rate:g}']:.2f}*" for rate in _SIZES]
    rows.append(["MNIST", "*published: the reproduction, best epoch on test images*", *published])
    return markdown_table(("data", "arm", *(f"{rate:g} %" for rate in _SIZES)), rows)


def twins() -> str:
    """The default, noise and real data on the twins of the data sets, with the first teacher of each."""
    rows = []
    for name, title in _TITLES.items():
        for twin in ("", *(f"-{one}" for one in _TWINS)):
            records = _found(f"{name}{twin}")
            if records is None:
                continue
            teacher = f"{records.at(TEACHER, None)[0].test_accuracy:.2f}"
            students = (_summary(_group(records, arm)) for arm in _DEFAULT)
            rows.append((title, twin.removeprefix("-") or "as it is", teacher, *students))
    return markdown_table(("data", "twin", *_HEAD), rows)


def _each(table: Callable[[str, Records], str]) -> Callable[[], str]:
    def all_of() -> str:
        found = _existing().items()
        return "\n\n".join(f"**{_TITLES[name]}.**\n\n{table(name, records)}" for name, records in found)

    return all_of


BETTER_TABLES: dict[str, Callable[[], str]] = {
    "better-today": today,
    "better-aims": aims,
    "better-sizes": sizes,
    "better-teachers": teachers,
    "better-arms": _each(lambda _, records: accuracy_table(records)),
    "better-contrasts": _each(
        lambda name, records: contrast_table(records, comparisons_of(load_experiment(name)))
    ),
    "better-provenance": _each(lambda _, records: provenance(records)),
    "better-twins": twins,
}
