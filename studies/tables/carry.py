"""The tables and the picture of docs/carry-over.md: what a student learns on each source of pictures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from records import RESULTS, Line, read_lines
from tables.common import in_words
from zskd.evaluation.figures import save_figure
from zskd.evaluation.statistics import Summary, compare_paired, summarise
from zskd.experiment.report.tables import markdown_table

PICTURE = "carry.png"
_TITLES = {
    "real": "real images, without labels",
    "white": "white noise (control)",
    "shapes": "random shapes (control)",
    "procedural": "`procedural` (control)",
    "balanced": "`procedural`, 4 candidates (control)",
    "boundary": "`boundary`",
    "zskd": "`zskd`",
    "zskd_bn": "`zskd_bn`",
    "short": "`zskd_bn`, from procedural pictures, 50 steps",
    "deepinversion": "`deepinversion`",
    "adi": "`adi`, against the student of `deepinversion`",
    "dfq": "`dfq`",
    "conditional": "`conditional`",
}
"""Arm of the record -> cell, in the order of the table."""
_HOW = {
    "alone": "alone",
    "procedural": "and procedural, half each",
    "features": "and features",
    "both": "and both",
    "jpeg": "features and JPEG",
}
"""Training of the record -> column."""
_PRECISION = "bfloat16"
"""Of the students of the first table and the picture; those in float32 stand in tables of their own."""
_CONTROLS = ("white", "shapes", "procedural", "balanced")
_HEAD = ("pictures", "steps", "images", "teacher passes, thousands", "core minutes")
_COLOURS = [f"C{number}" for number in (0, 1, 2, 3, 4, 5, 6, 8, 9)] + ["gold", "navy", "lime", "maroon"]
"""One for each arm; without grey, which pale black would look like."""
_CONTROL = "procedural"
"""What the others are compared with, seed by seed."""
_LONG = 3000
"""Steps of the longer training."""
_NONE = ("–", "–")
"""The control beside itself."""


@dataclass(frozen=True)
class _Row:
    """Students of one arm that are alike but for their seeds."""

    arm: str
    steps: int
    how: str
    """As in the record: alone, beside procedural pictures, features pulled, both, or features and JPEG."""
    lines: list[Line]

    @property
    def agreement(self) -> Summary:
        return summarise([line["agreement"] for line in self.lines])

    @property
    def cells(self) -> tuple[str, ...]:
        """What the tables tell of the making, under `_HEAD`."""
        return (
            _TITLES[self.arm],
            f"{self.steps:,}",
            f"{self.lines[0]['images']:,}",
            f"{self.passes / 1000:,.0f}",
            f"{self.minutes:.1f}",
        )

    @property
    def by_seed(self) -> dict[int, float]:
        return {line["seed"]: line["agreement"] for line in self.lines}

    @property
    def passes(self) -> float:
        """Of the teacher, forward and back, for the set and the student."""
        of_lines = [
            sum(
                counts["teacher_forward"] + counts["teacher_backward"]
                for part in line["passes"].values()
                for counts in part.values()
            )
            for line in self.lines
        ]
        return sum(of_lines) / len(of_lines)

    @property
    def minutes(self) -> float:
        """Of one core, for the set and the student; the set is made once for all students of a seed."""
        sets = {
            line["seed"]: line["set_cpu_seconds"]
            for line in _lines()
            if line["arm"] == self.arm
            and line["precision"] == self.lines[0]["precision"]
            and line["set_cpu_seconds"] > _READ_AGAIN
        }
        seconds = [sets.get(line["seed"], 0.0) + line["student_cpu_seconds"] for line in self.lines]
        return sum(seconds) / len(seconds) / 60


_READ_AGAIN = 1.0
"""Seconds of a set that existed already, at most."""


def carry() -> str:
    """Agreement with the teacher on held-out real images, with each training."""
    hows = {how: title for how, title in _HOW.items() if any(True for _ in _rows(how))}
    cells = {(row.arm, row.steps, row.how): row for how in hows for row in _rows(how)}
    rows = []
    for arm, steps in sorted(
        {key[:2] for key in cells}, key=lambda key: (list(_TITLES).index(key[0]), key[1])
    ):
        found = {how: cells.get((arm, steps, how)) for how in hows}
        first = next(row for row in found.values() if row is not None)
        rows.append(
            (
                *first.cells,
                *("–" if row is None else in_words(row.agreement, count=False) for row in found.values()),
            )
        )
    return markdown_table((*_HEAD, *hows.values()), rows)


def seeds() -> str:
    """Students in float32 with features, and what each source brings over procedural pictures, paired."""
    return _over_control(list(_rows("features", "float32")))


def long() -> str:
    """The same after 3,000 steps, in bfloat16."""
    return _over_control([row for row in _rows("features") if row.steps == _LONG])


def _over_control(cells: list[_Row]) -> str:
    control = next(row for row in cells if row.arm == _CONTROL)
    rows = [
        (
            *row.cells,
            in_words(row.agreement),
            *(_NONE if row is control else _change(row, control)),
        )
        for row in cells
    ]
    return markdown_table((*_HEAD, "agreement", f"over `{_CONTROL}`", "95 % interval"), rows)


def mixtures() -> str:
    """What half procedural pictures in each batch change, paired, with features."""
    cells = [
        (row, pure)
        for precision in ("float32", _PRECISION)
        for row in _rows("both", precision)
        for pure in _rows("features", precision)
        if (pure.arm, pure.steps) == (row.arm, row.steps)
    ]
    rows = [
        (
            _TITLES[row.arm],
            f"{row.steps:,}",
            row.lines[0]["precision"],
            in_words(pure.agreement),
            in_words(row.agreement),
            *_change(row, pure),
        )
        for row, pure in cells
    ]
    head = ("pictures", "steps", "precision", "alone", f"with `{_CONTROL}`", "change", "95 % interval")
    return markdown_table(head, rows)


def _change(row: _Row, other: _Row) -> tuple[str, str]:
    """The mean difference of two rows, seed by seed, and its interval."""
    found = compare_paired(row.by_seed, other.by_seed, names=(row.arm, other.arm))
    interval = "–" if found.low is None else f"[{found.low:+.1f}, {found.high:+.1f}]"
    return f"{found.mean:+.1f}", interval


def precision() -> str:
    """The same students in float32 and bfloat16."""
    rows = []
    for how, arm in itertools.product(("alone", "features"), _TITLES):
        cells = [
            {
                (line["steps"], line["seed"]): line["agreement"]
                for line in _lines()
                if (line["arm"], line["precision"], line["how"]) == (arm, kind, how)
            }
            for kind in ("float32", _PRECISION)
        ]
        both = sorted(cells[0].keys() & cells[1].keys())
        if not both:
            continue
        change = compare_paired(
            {number: cells[1][key] for number, key in enumerate(both)},
            {number: cells[0][key] for number, key in enumerate(both)},
            names=(_PRECISION, "float32"),
        )
        means = [summarise([cell[key] for key in both]).mean for cell in cells]
        title = _TITLES[arm] + ("" if how == "alone" else f", {_HOW[how]}")
        rows.append((title, *(f"{mean:.1f}" for mean in means), f"{change.mean:+.1f}", str(change.n)))
    return markdown_table(("pictures", "float32", _PRECISION, "change", "n"), rows)


def provenance() -> str:
    """How the students were made."""
    lines = _lines()
    of = lines[0]
    processors = " and ".join(sorted({line["processor"]["name"] for line in lines}))
    commits = ", ".join(sorted({line["commit"][:8] for line in lines}))
    return (
        f"n = {of['n']:,} held-out images; ± is the standard deviation over seeds, and a number without it "
        f"is of one seed; {processors}, one thread; torch {of['versions']['torch']}; commits "
        f"{commits}."
    )


def picture() -> str:
    """The Markdown of the picture."""
    return f"![agreement by steps, teacher passes and core minutes](images/{PICTURE})"


def draw_carry(folder: Path) -> None:
    """Draw the agreement of each arm over steps, passes and minutes; controls are dashed.

    Students without the loss of features are pale; arms without students in bfloat16 have those in float32.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    drawn = [row for how in ("alone", "features") for row in _rows(how)]
    there = {row.arm for row in drawn}
    drawn += [row for row in _rows("features", "float32") if row.arm not in there]
    arms = [arm for arm in _TITLES if any(row.arm == arm for row in drawn)]
    for (number, arm), how in itertools.product(enumerate(arms), ("alone", "features")):
        rows = [row for row in drawn if (row.arm, row.how) == (arm, how)]
        if not rows:
            continue
        for axes, xs in zip(
            panels,
            (
                [row.steps for row in rows],
                [row.passes / 1000 for row in rows],
                [row.minutes for row in rows],
            ),
            strict=True,
        ):
            axes.errorbar(
                xs,
                [row.agreement.mean for row in rows],
                [row.agreement.deviation or 0 for row in rows],
                fmt="s--" if arm in _CONTROLS else "o-",
                color="black" if arm == "real" else _COLOURS[number % len(_COLOURS)],
                ms=4,
                lw=1.2,
                alpha=1.0 if how == "features" else 0.4,
                label=_TITLES[arm].replace("`", ""),
            )
    for axes, label in zip(
        panels,
        ("steps of the student", "teacher passes, thousands", "minutes of one core, set included"),
        strict=True,
    ):
        axes.set(xscale="log", xlabel=label)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.grid(alpha=0.3)
    panels[0].set_xticks(sorted({row.steps for row in drawn}))
    panels[0].set_ylabel("agreement with the teacher, %")
    handles, labels = panels[0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))  # of both trainings, the last one
    figure.legend(named.values(), named.keys(), loc="outside right", frameon=False, fontsize=8)
    save_figure(figure, folder / PICTURE)


def _rows(how: str, precision: str = _PRECISION) -> Iterator[_Row]:
    for arm in _TITLES:
        of_arm = [
            line
            for line in _lines()
            if (line["arm"], line["how"], line["precision"]) == (arm, how, precision)
        ]
        for steps in sorted({line["steps"] for line in of_arm}):
            yield _Row(arm, steps, how, [line for line in of_arm if line["steps"] == steps])


def _lines() -> list[Line]:
    return read_lines(RESULTS / "carry.json")


CARRY_TABLES: dict[str, Callable[[], str]] = {
    "carry": carry,
    "carry-long": long,
    "carry-mixtures": mixtures,
    "carry-picture": picture,
    "carry-precision": precision,
    "carry-provenance": provenance,
    "carry-seeds": seeds,
}
