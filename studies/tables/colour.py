"""The tables of docs/colour.md: students of teachers of coloured digits, by pictures and by one change."""

from __future__ import annotations

from collections.abc import Callable

from records import RESULTS, Line, read_lines
from zskd.evaluation.statistics import summarise
from zskd.experiment.report.tables import markdown_table

_NETWORKS = {"resnet8": "ResNet-8", "depthwise": "depthwise chain"}
_ARMS = {
    "real": "real images, without labels",
    "shapes": "random shapes (control)",
    "procedural": "`procedural`",
    "default": "`default`: a fifth impressions of `zskd`, the rest shapes",
    "zskd": "impressions of `zskd` alone",
    "zskd_bn": "`zskd_bn`",
    "conditional": "`conditional` and `procedural`, half each",
}
"""Arm of the record -> cell, in the order of the table."""
_CHANGES = {
    "base": "none",
    "grey": "grey digits",
    "no_norm": "no batch-norm",
    "random": "student from random weights",
}
_COMPARED = ("real", "shapes", "default")
"""Arms that are in every setting."""


def colour() -> str:
    """Agreement with the teacher, and accuracy, by source of pictures."""
    lines = [line for line in _lines() if line["setting"] == "base"]
    rows = []
    for arm, title in _ARMS.items():
        of = {
            name: [one for one in lines if (one["arm"], one["network"]) == (arm, name)] for name in _NETWORKS
        }
        if not any(of.values()):
            continue
        images = next(some[0]["images"] for some in of.values() if some)
        cells = (_mean(some, key) for some in of.values() for key in ("agreement", "accuracy"))
        rows.append((title, f"{images:,}", *cells))
    heads = (f"{title}: {key}" for title in _NETWORKS.values() for key in ("agreement", "accuracy"))
    return markdown_table(("pictures", "images", *heads), rows)


def changes() -> str:
    """Agreement with the teacher where one thing is changed."""
    lines = _lines()
    rows = []
    for network, title in _NETWORKS.items():
        for setting, change in _CHANGES.items():
            of = [one for one in lines if (one["network"], one["setting"]) == (network, setting)]
            if of:
                cells = (_mean([one for one in of if one["arm"] == arm], "agreement") for arm in _COMPARED)
                rows.append((title, change, f"{of[0]['teacher_test_accuracy']:.1f}", *cells))
    head = ("teacher", "change", "accuracy of the teacher", "real images", "random shapes", "`default`")
    return markdown_table(head, rows)


def provenance() -> str:
    """How the students were made."""
    lines = _lines()
    of = lines[0]
    sizes = {one["network"]: one["parameters"] / one["teacher_parameters"] for one in lines}
    shares = " and ".join(f"{sizes[name]:.2f} ({title})" for name, title in _NETWORKS.items())
    commits = ", ".join(sorted({line["commit"][:8] for line in lines}))
    return (
        f"n = {of['n']:,} held-out images, four of each digit, or one of each in grey; one seed where no "
        f"n stands beside a mean; student of {shares} of the parameters; "
        f"{of['processor']['name']}, one thread; torch {of['versions']['torch']}; commit {commits}."
    )


def _lines() -> list[Line]:
    return read_lines(RESULTS / "colour.json")


def _mean(lines: list[Line], key: str) -> str:
    if not lines:
        return "–"
    found = summarise([line[key] for line in lines])
    return f"{found.mean:.1f}" + (f" ± {found.deviation:.1f} (n = {found.n})" if found.n > 1 else "")


COLOUR_TABLES: dict[str, Callable[[], str]] = {
    "colour": colour,
    "colour-changes": changes,
    "colour-provenance": provenance,
}
