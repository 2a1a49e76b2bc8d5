"""The table of docs/carry-over.md: what a student learns on each source of pictures."""

from __future__ import annotations

from collections.abc import Callable

from records import RESULTS, Line, read_lines
from zskd.evaluation.statistics import summarise
from zskd.experiment.report.tables import markdown_table

_TITLES = {
    "real": "real images, without labels",
    "white": "white noise (control)",
    "shapes": "random shapes (control)",
    "procedural": "`procedural`",
    "balanced": "`procedural`, 4 candidates",
    "boundary": "`boundary`",
    "zskd": "`zskd`",
    "zskd_bn": "`zskd_bn`",
    "deepinversion": "`deepinversion`",
    "conditional": "`conditional` and `procedural`, half each",
}
"""Arm of the record -> cell, in the order of the table."""


def carry() -> str:
    """Agreement with the teacher on held-out real images, alone and beside procedural pictures."""
    lines = _lines()
    rows = []
    for arm, title in _TITLES.items():
        for steps in sorted({line["steps"] for line in lines if line["arm"] == arm}):
            of = [line for line in lines if line["arm"] == arm and line["steps"] == steps]
            alone, beside = (
                [one for one in of if one["beside_procedural"] is flag] for flag in (False, True)
            )
            some = (alone or beside)[0]
            passes = sum(
                counts["teacher_forward"] + counts["teacher_backward"]
                for part in some["passes"].values()
                for counts in part.values()
            )
            rows.append(
                (
                    title,
                    f"{steps:,}",
                    f"{some['images']:,}",
                    f"{passes / 1000:,.0f}",
                    f"{(some['set_cpu_seconds'] + some['student_cpu_seconds']) / 60:.1f}",
                    _agreement(alone),
                    _agreement(beside),
                )
            )
    head = (
        "pictures",
        "steps",
        "images",
        "teacher passes, thousands",
        "core minutes",
        "alone",
        "and procedural, half each",
    )
    return markdown_table(head, rows)


def provenance() -> str:
    """How the students were made."""
    lines = _lines()
    of = lines[0]
    commits = ", ".join(sorted({line["commit"][:8] for line in lines}))
    return (
        f"n = {of['n']:,} held-out images; seeds: {len({line['seed'] for line in lines})}; "
        f"{of['processor']['name']}, one thread; torch {of['versions']['torch']}; commit {commits}."
    )


def _lines() -> list[Line]:
    return read_lines(RESULTS / "carry.json")


def _agreement(lines: list[Line]) -> str:
    if not lines:
        return "–"
    found = summarise([line["agreement"] for line in lines])
    return f"{found.mean:.1f}" + (f" ± {found.deviation:.1f} (n = {found.n})" if found.n > 1 else "")


CARRY_TABLES: dict[str, Callable[[], str]] = {"carry": carry, "carry-provenance": provenance}
