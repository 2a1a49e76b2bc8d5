"""The tables and the picture of docs/estimate.md, from results/signal.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from records import Line
from signals import (
    FIT,
    TASKS,
    concluded,
    fit,
    fit_multiples,
    left_out,
    measured_lines,
    named_worst,
    near,
    of_statistics,
    statistics_ratio,
)
from tables.common import TITLES, shown_picture
from zskd.core.tables import markdown_table
from zskd.evaluation.agreement import Multiples
from zskd.evaluation.figures import save_figure

_CLOSE = 90.0
"""Agreement of a student that is near its teacher, in percent."""
_KINDS = ("near the best", "others", "real images")
_COLOURS = (
    *("#1b6ca8", "#3a9d5d", "#c2571a", "#7d4fa0", "#a08a2c", "#555555", "#d0569b", "#2bb3b3", "#111111"),
    *("#8c1c13", "#f2a541", "#6a994e", "#b8b8ff", "#5c4d7d", "#00509d", "#ff7f9f"),
)
PICTURE = "signal.png"


@cache
def _groups() -> dict[tuple[str, str], list[Line]]:
    """Students of teachers without batch-norm, by data set and kind, the data sets of the fit first."""
    lines = [line for line in measured_lines() if not line["signals"].get("with_statistics")]
    close = {line["student_sha256"] for line in near(lines)}
    names = sorted({line["dataset"] for line in lines}, key=lambda name: (name not in FIT, name))
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        kind = "near the best" if line["student_sha256"] in close else "others"
        groups.setdefault((line["dataset"], "real images" if line["real"] else kind), []).append(line)
    order = [(name, kind) for name in names for kind in _KINDS]
    return {key: groups[key] for key in order if key in groups}


def _title(name: str) -> str:
    for origin, title in TITLES.items():
        if name.startswith(f"{origin}-"):
            return f"{title}, {name.removeprefix(f'{origin}-')}"
    return TITLES[name] + (", fitted on" if name in FIT else "")


def _covered(lines: Sequence[Line]) -> str:
    law = fit(measured_lines())
    pairs = [(line["agreement"], concluded(line, law)) for line in lines]
    return _share(sum(one.low <= true <= one.high for true, one in pairs), len(pairs))


def _share(count: int, n: int) -> str:
    return f"{count} of {n} ({100 * count / n:.0f} %)"


def coverage() -> str:
    """Estimate and interval for each group of students, and how often the interval holds the true value."""
    law = fit(measured_lines())
    rows = []
    for (name, kind), lines in _groups().items():
        if kind == "real images":
            continue
        pairs = [(line["agreement"], concluded(line, law)) for line in lines]
        errors = [abs(true - one.percent) for true, one in pairs if one.percent is not None]
        rows.append(
            (
                _title(name),
                kind,
                f"{min(true for true, _ in pairs):.1f}–{max(true for true, _ in pairs):.1f}",
                _share(len(errors), len(pairs)),
                f"{median(errors):.1f}" if errors else "–",
                f"{median(one.high - one.low for _, one in pairs):.1f}",
                _covered(lines),
            )
        )
    head = (
        "data",
        "students without data",
        "true agreement, %",
        "with an estimate",
        "median error of the estimate, points",
    )
    return markdown_table(
        (*head, "median width of the interval, points", "true agreement in the interval"), rows
    )


def alone() -> str:
    """The law without its limits, the first version that was tried."""
    law = fit(measured_lines())
    rows = []
    for (name, kind), lines in _groups().items():
        ratios, inside = [], 0
        for line in lines:
            guess = law.factor * line["signals"]["unexplained"]
            true = max(1 - line["agreement"] / 100, 0.5 / line["test_images"])
            ratios.append(true / guess)
            inside += guess / law.spread <= true <= guess * law.spread
        rows.append((_title(name), kind, f"{median(ratios):.2f} ×", _share(inside, len(lines))))
    head = (
        "data",
        "students",
        "true disagreement / the law's, median",
        "true disagreement in the law's interval",
    )
    return markdown_table(head, rows)


def law_facts() -> str:
    """The law in numbers."""
    lines = measured_lines()
    used = [line for line in near(lines) if line["dataset"] in FIT]
    law, errors = fit(lines), left_out(used)
    typical = sum(weight * error**2 for error, weight in errors) ** 0.5
    return markdown_table(
        ("fact", "value"),
        [
            (
                "students fitted on",
                f"{len(used)} of {len({line['teacher_sha256'] for line in used})} teachers",
            ),
            ("disagreement / missed share of the margins", f"{law.factor:.2f}"),
            (
                "typical error (root mean square) by the law of the other data set",
                f"× or / {2.718281828**typical:.2f}",
            ),
            ("interval: 90 % of these errors", f"× or / {law.spread:.2f}"),
            ("largest missed share of the margins", f"{100 * law.unexplained[1]:.1f} %"),
            ("largest loss of the teacher's margins", f"{100 * law.fragility:.0f} %"),
        ],
    )


def teachers() -> str:
    """Share of the margin that the teachers' class impressions lose when they are moved."""
    rows = []
    for name in dict.fromkeys(name for name, _ in _groups()):
        found = {
            line["teacher_sha256"]: line["signals"]["fragility"]
            for (data, _), lines in _groups().items()
            for line in lines
            if data == name
        }
        values = [100 * one for one in found.values()]
        rows.append((_title(name), str(len(values)), f"{min(values):.0f}–{max(values):.0f} %"))
    return markdown_table(("data", "teachers", "loss of margin of their moved class impressions"), rows)


def weakest() -> str:
    """How often the class with the lowest agreement is among the listed classes."""
    rows = []
    for name in dict.fromkeys(name for name, _ in _groups()):
        lines = [
            x
            for (data, kind), some in _groups().items()
            for x in some
            if data == name and kind != "real images"
        ]
        rows.append((_title(name), _share(sum(map(named_worst, lines)), len(lines))))
    return markdown_table(("data", "the weakest class is among the three listed"), rows)


def statistics() -> str:
    """For teachers with batch-norm: disagreement on real images beside that on impressions."""
    lines, rows = of_statistics(measured_lines()), []
    for name in dict.fromkeys(line["experiment"] for line in lines):
        own = [line for line in lines if line["experiment"] == name]
        others = [line for line in lines if line["experiment"] != name]
        ratios = sorted(map(statistics_ratio, own))
        true = [line["agreement"] for line in own]
        rows.append(
            (
                TASKS.get(name, name),
                str(len(own)),
                f"{min(true):.1f}–{max(true):.1f}",
                f"{ratios[0]:.2f}–{ratios[-1]:.2f}, median {median(ratios):.2f}",
                _inside(own, fit_multiples(lines)),
                _inside(own, fit_multiples(others)) if others else "–",
                f"{median(_width(line) for line in own if line['agreement'] >= _CLOSE):.1f}"
                if any(value >= _CLOSE for value in true)
                else "–",
            )
        )
    head = (
        "teacher and data",
        "students without data",
        "true agreement, %",
        "disagreement, real / impressions",
        "in the interval",
        "in that of the other tasks",
        f"median width where the true agreement is {_CLOSE:g} or more, points",
    )
    return markdown_table(head, rows)


def _inside(lines: Sequence[Line], multiples: Multiples) -> str:
    law = fit(measured_lines())
    found = [(line["agreement"], concluded(line, law, multiples)) for line in lines]
    return _share(sum(one.low <= true <= one.high for true, one in found), len(found))


def _width(line: Line) -> float:
    found = concluded(line, fit(measured_lines()))
    return found.high - found.low


def picture() -> str:
    """The picture of intervals and true values."""
    return shown_picture("estimated against true agreement", PICTURE, measured_lines())


def draw(folder: Path) -> None:
    """Draw intervals over true values; both axes show disagreement, to make small ones visible."""
    law = fit(measured_lines())
    figure = Figure(figsize=(10, 6))
    axes = figure.add_subplot()
    groups: dict[str, list[Line]] = {}
    for (name, kind), some in _groups().items():
        if kind != "real images":
            groups.setdefault(_title(name), []).extend(some)
    for line in of_statistics(measured_lines()):
        groups.setdefault(TASKS.get(line["experiment"], line["experiment"]), []).append(line)
    for (title, lines), colour in zip(groups.items(), _COLOURS * len(groups), strict=False):
        for line in lines:
            found, true = concluded(line, law), max(100 - line["agreement"], 0.05)
            axes.plot(
                [true, true], [max(100 - found.high, 0.05), 100 - found.low], color=colour, lw=0.8, alpha=0.5
            )
            if found.percent is not None:
                axes.plot(true, 100 - found.percent, "o", color=colour, ms=4)
        axes.plot([], [], "o-", color=colour, ms=4, label=title)
    axes.plot([0.3, 90], [0.3, 90], color="black", lw=0.8, ls=":")
    axes.set(xscale="log", yscale="log", xlabel="true disagreement on test images, %")
    axes.set_ylabel("estimated without data, %: number and interval, or interval alone")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    save_figure(figure, folder / PICTURE)


ESTIMATE_TABLES: dict[str, Callable[[], str]] = {
    "estimate-coverage": coverage,
    "estimate-alone": alone,
    "estimate-statistics": statistics,
    "estimate-law": law_facts,
    "estimate-teachers": teachers,
    "estimate-weakest": weakest,
    "estimate-picture": picture,
}
"""By the names of their blocks."""
