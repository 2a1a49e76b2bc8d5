"""The tables of docs/audit.md: what students, teachers and impressions show of training images."""

from __future__ import annotations

from collections.abc import Callable

from records import RESULTS, Line, read_lines
from zskd.experiment.report.tables import markdown_table

_TITLES = {
    "mnist": "MNIST",
    "mnist-test": "MNIST, test images as others",
    "mnist-few": "MNIST, 2,000 by heart",
    "cifar": "CIFAR-10",
    "cifar-real": "CIFAR-10, set of real images",
}


def areas() -> str:
    """AUC by loss and by likelihood, for each network."""
    return _of_networks(0)


def found() -> str:
    """Members found at 1 % false positives, likewise."""
    return _of_networks(1)


def _of_networks(cell: int) -> str:
    rows = []
    for name, line in _without_reference().items():
        beside = _with_reference().get(name)
        for of in ("teacher", "student"):
            shown = [_cells(line, of, by)[cell] for by in ("loss", "likelihood")]
            calibrated = "–" if beside is None else _cells(beside, of, "likelihood")[cell]
            rows.append((f"{_TITLES[name]}: {of}", *shown, calibrated))
        if beside is not None:
            rows.append((f"{_TITLES[name]}: reference", _cells(beside, "reference", "loss")[cell], "–", "–"))
    return markdown_table(("network", "loss", "likelihood", "with a reference"), rows)


def impressions() -> str:
    """AUC and members found by their distance to the nearest impression."""
    rows = [
        (
            _TITLES[name],
            f"{line['impressions']:,}",
            *_cells(line, "impressions", "pixels"),
            *_cells(line, "impressions", "features"),
            *(f"{one:.3f}" for one in line["audit"]["nearest"]),
        )
        for name, line in _without_reference().items()
    ]
    measures = (f"{one}: {what}" for one in ("pixels", "features") for what in ("AUC", "found, %"))
    return markdown_table(("set", "images", *measures, "nearest member", "nearest other"), rows)


def provenance() -> str:
    """How many images, and how the tables were made."""
    lines = list(_without_reference().values())
    counts = "; ".join(
        f"{_TITLES[line['cell']]} {line['members']:,} and {line['others']:,}, the teacher trained on "
        f"{line['trained_on']:,}"
        for line in lines
    )
    first = lines[0]
    return (
        f"Members and others: {counts}. Of each likelihood without a reference, half are tested. One "
        f"teacher and one student each. `{first['command']}`; torch {first['versions']['torch']}, commit "
        f"{(first['commit'] or 'unknown')[:8]}."
    )


def _lines() -> list[Line]:
    return read_lines(RESULTS / "audit.json")


def _without_reference() -> dict[str, Line]:
    return {line["cell"]: line for line in _lines() if not line["reference"]}


def _with_reference() -> dict[str, Line]:
    return {line["cell"]: line for line in _lines() if line["reference"]}


def _cells(line: Line, of: str, by: str) -> tuple[str, str]:
    """Return the AUC and the share found of one test, with intervals; bold where it is more than chance."""
    (test,) = (one for one in line["audit"]["tests"] if (one["of"], one["by"]) == (of, by))
    area, found = test["area"], test["found"]
    shown = (
        f"{area['area']:.3f} [{area['low']:.3f}, {area['high']:.3f}]",
        f"{found['percent']:.1f} [{found['low']:.1f}, {found['high']:.1f}]",
    )
    return shown if test["p"] >= 0.05 else (f"**{shown[0]}**", f"**{shown[1]}**")


AUDIT_TABLES: dict[str, Callable[[], str]] = {
    "audit-areas": areas,
    "audit-found": found,
    "audit-impressions": impressions,
    "audit-provenance": provenance,
}
