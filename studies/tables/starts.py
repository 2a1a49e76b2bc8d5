"""The table of what the start from the teacher brings, on real images."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from records import RESULTS, Line, read_lines
from zskd.evaluation.statistics import compare_paired, summarise
from zskd.experiment.report.tables import markdown_table

_TITLES = {
    "resnet20": "public ResNet-20, CIFAR-10 (JPEG)",
    "chain": "LeNet-5, digits in colour",
    "depthwise": "depthwise and 1×1 convolutions, digits in colour",
    "vit": "ViT (4 layers of 96), digits in colour",
}
"""Network of the record -> cell, in the order of the table."""


def starts() -> str:
    """Agreement with the teacher from both starts, after each number of steps, and the paired change."""
    lines = _lines()
    rows = []
    trainings = sorted({(line["steps"], line["batch_size"]) for line in lines})
    for network, (steps, batch_size) in product(_TITLES, trainings):
        cells = [_by_seed(lines, network, steps, batch_size, start) for start in ("random", "teacher")]
        if not all(cells):
            continue
        change = compare_paired(cells[1], cells[0], names=("teacher", "random"))
        means = [summarise(cell.values()) for cell in cells]
        rows.append(
            (
                _TITLES[network],
                f"{steps:,}",
                str(batch_size) if steps else "",
                *(f"{one.mean:.1f} ± {one.deviation or 0:.1f}" for one in means),
                f"{change.mean:+.1f} ± {change.deviation or 0:.1f}",
                str(change.n),
            )
        )
    head = ("teacher", "steps", "batch", "random start", "start from the teacher", "change, paired", "n")
    return markdown_table(head, rows)


def provenance() -> str:
    """How the students were made."""
    lines = _lines()
    facts = {line["network"]: line for line in lines}
    shares = "; ".join(
        f"{network}: {line['images']:,} images, teacher {line['teacher_accuracy']:.1f} % on test images, "
        f"{line['parameters'] / line['teacher_parameters']:.2f} of its parameters"
        for network in _TITLES
        if (line := facts.get(network)) is not None
    )
    commits = ", ".join(sorted({line["commit"][:8] for line in lines}))
    of = lines[0]
    return f"{shares}. {of['processor']['name']}; torch {of['versions']['torch']}; commit {commits}."


def _lines() -> list[Line]:
    return read_lines(RESULTS / "starts.json")


def _by_seed(lines: list[Line], network: str, steps: int, batch_size: int, start: str) -> dict[int, float]:
    wanted = {"network": network, "steps": steps, "batch_size": batch_size, "start": start}
    return {line["seed"]: line["agreement"] for line in lines if wanted.items() <= line.items()}


STARTS_TABLES: dict[str, Callable[[], str]] = {"starts": starts, "starts-provenance": provenance}
