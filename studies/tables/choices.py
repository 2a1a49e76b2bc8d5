"""Small tables of the pages of methods: what images are like with other settings."""

from __future__ import annotations

from collections.abc import Callable

from records import RESULTS, Line, read_lines
from zskd.experiment.report.tables import markdown_table

_NETWORKS = {"resnet20": "CIFAR-10 ResNet-20", "lenet5": "digits LeNet-5"}
_KINDS = {"real": "real", "shapes": "random shapes"}
_CHANGES = ("horizontal flip", "vertical flip", "colour", "rotation", "crop", "shift")
_DEFAULT = (0.02, 0.3, "absolute", 40.0)
"""Learning rate, weight and scale of the statistics, weight of the total variation."""


def inversion() -> str:
    """What images of DeepInversion are like with several settings."""
    rows = []
    for line in _lines("inversion"):
        measured = (f"{line['statistics_distance']:.1f}", f"{line['total_variation']:.3f}")
        if line["images"] == "real":
            rows.append(("real images", "", "", "", measured[0], "", measured[1], "", ""))
            continue
        settings = tuple(line[key] for key in ("learning_rate", "statistics", "scale", "variation"))
        flips = "yes" if line["flip"] else "no"
        rows.append(
            (
                f"{line['learning_rate']:g}{', the default' * (settings == _DEFAULT)}",
                f"{line['statistics']:g}{', relative' * (line['scale'] == 'relative')}",
                f"{line['variation']:g}",
                f"{flips}, and shift {line['shift']:g}" if line["shift"] else flips,
                measured[0],
                f"{line['cross_entropy']:.3f}",
                measured[1],
                f"{line['class_percent']:.0f} %",
                f"{line['flipped_percent']:.0f} %",
            )
        )
    head = (
        "learning rate",
        "statistics",
        "variation",
        "flip",
        "R",
        "cross-entropy",
        "V",
        "class",
        "flipped",
    )
    return markdown_table(head, rows)


def pairs() -> str:
    """How many steps find pairs on both sides of the teacher's decision."""
    rows = [
        (
            f"`{line['start']}`",
            str(line["steps"]),
            f"{line['found_percent']:.0f} %",
            f"{line['gap_at_start']:.2f}",
            f"{line['gap_before']:.3f}",
            f"{line['gap_beyond']:.3f}",
            f"{line['way']:.4f}",
        )
        for line in _lines("pairs")
    ]
    head = ("start images", "steps", "pairs found", "gap at the start", "before", "beyond", "way")
    return markdown_table(head, rows)


def changes() -> str:
    """How often a teacher predicts the same class after a change of the images."""
    rows = [
        (
            f"{_NETWORKS[line['teacher']]}, {_KINDS[line['images']]}",
            *(f"{line['same_class'][change]:.1f}" for change in _CHANGES),
        )
        for line in _lines("changes")
    ]
    return markdown_table(("teacher, images", *_CHANGES), rows)


def mirrors() -> str:
    """How often a teacher predicts the same class when images are mirrored."""
    lines = _lines("mirrors")
    by_teacher: dict[str, dict[str, Line]] = {}
    for line in lines:
        by_teacher.setdefault(line["teacher"], {})[line["images"]] = line
    rows = [
        (_TAUGHT[name], *(f"{of[kind]['same_class']:.0f} %" for kind in ("real", "impressions")))
        for name, of in by_teacher.items()
    ]
    return markdown_table(("teacher", "real images", "impressions made without flips"), rows)


def mirrors_provenance() -> str:
    """How the mirrored images were measured."""
    lines = _lines("mirrors")
    counts = {line["images"]: line["n"] for line in lines}
    return f"{counts['real']:,} real images, {counts['impressions']} impressions; {_how(lines[0])}"


def rates() -> str:
    """The objective of some impressions at each learning rate, for several teachers; the lowest in bold."""
    by_teacher: dict[str, dict[float, float]] = {}
    for line in _lines("rates"):
        by_teacher.setdefault(line["teacher"], {})[line["learning_rate"]] = line["objective"]
    tried = sorted({rate for values in by_teacher.values() for rate in values})
    rows = []
    for name, values in by_teacher.items():
        lowest = min(values.values())
        cells = (f"{values[rate]:.2f}" for rate in tried)
        bold = (f"**{c}**" if values[rate] == lowest else c for c, rate in zip(cells, tried, strict=True))
        rows.append((_TAUGHT[name], *bold))
    return markdown_table(("teacher", *(f"{rate:g}" for rate in tried)), rows)


def rates_provenance() -> str:
    """How the objectives were measured."""
    lines = _lines("rates")
    return f"Mean over {lines[0]['n']} impressions, one seed; {_how(lines[0])}"


def provenance() -> str:
    """How the other parts were measured."""
    return _how(_lines("inversion")[0])


def _how(of: Line) -> str:
    return (
        f"{of['processor']['name']}; torch {of['versions']['torch']}; commit {of['commit'][:8]}; "
        f"`{of['command']}`"
    )


_TAUGHT = {
    "resnet20": "CIFAR-10 ResNet-20",
    "resnet8": "coloured digits ResNet-8",
    "depthwise": "coloured digits depthwise chain",
    "lenet5_bn": "grey digits LeNet-5 with batch-norm",
    "mobilenet(width=0.25)": "grey digits MobileNet × 0.25",
}


def _lines(part: str) -> list[Line]:
    return [line for line in read_lines(RESULTS / "choices.json") if line["part"] == part]


CHOICES_TABLES: dict[str, Callable[[], str]] = {
    "inversion": inversion,
    "pairs": pairs,
    "changes": changes,
    "mirrors": mirrors,
    "mirrors-provenance": mirrors_provenance,
    "rates": rates,
    "rates-provenance": rates_provenance,
    "choices-provenance": provenance,
}
