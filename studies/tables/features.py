"""The tables of docs/features.md: losses of features with their control, and statistics of batch-norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from records import RESULTS, Line, read_lines
from zskd.evaluation.statistics import compare_paired, summarise
from zskd.experiment.report.tables import markdown_table

_STATISTICS = {
    "running": "`running`",
    "augmented": "`again`",
    "half augmented": "again, on images with half the augmentation",
    "as they are": "again, on images that are not augmented",
    "fixed": "`fixed`",
}
"""Entry of the record -> cell."""


def losses() -> str:
    """Agreement without a loss of features, and the change by each loss, weight and source of features."""
    groups: dict[tuple[str, ...], dict[str, dict[int, float]]] = {("off", "–", "–"): {}}
    for line in _lines():
        if line["statistics"] == "running":
            arm = (
                line["arm"],
                f"{line['weight']:g}" if "weight" in line else "–",
                line.get("features_of", "–"),
            )
            _keep(groups.setdefault(arm, {}), line)
    cells = _compared(groups, ("off", "–", "–"))
    rows = [
        ((f"`{loss}`" if loss != "off" else loss), *rest, *found) for (loss, *rest), found in cells.items()
    ]
    return markdown_table(("loss", "weight", "features of the", *_settings()), rows)


def statistics() -> str:
    """Agreement with the statistics of the training, and the change by each other kind."""
    groups: dict[tuple[str, ...], dict[str, dict[int, float]]] = {(name,): {} for name in _STATISTICS}
    for line in _lines():
        if line["arm"] == "off":
            _keep(groups[(line["statistics"],)], line)
    cells = _compared(groups, ("running",))
    return markdown_table(
        ("statistics", *_settings()), [(_STATISTICS[name], *found) for (name,), found in cells.items()]
    )


def provenance() -> str:
    """What the students were trained with."""
    lines = _lines()
    facts = [
        f"{name}: {line['steps']} steps of {line['batch_size']} images, {line['held_out']:,} held-out images"
        for name in _settings()
        for line in [next(one for one in lines if one["setting"] == name)]
    ]
    commits = ", ".join(sorted({line["commit"][:8] for line in lines}))
    of = lines[0]
    return (
        f"{'; '.join(facts)}; {of['processor']['name']}; torch {of['versions']['torch']}; commit {commits}."
    )


def _lines() -> list[Line]:
    return read_lines(RESULTS / "features.json")


def _settings() -> list[str]:
    return sorted({line["setting"] for line in _lines()}, reverse=True)


def _keep(group: dict[str, dict[int, float]], line: Line) -> None:
    group.setdefault(line["setting"], {})[line["seed"]] = line["agreement"]


def _compared(
    groups: Mapping[tuple[str, ...], Mapping[str, Mapping[int, float]]], base: tuple[str, ...]
) -> dict[tuple[str, ...], list[str]]:
    """Return a cell for each group and setting: the agreement of the base, else the paired change."""
    return {
        name: [
            _cell(found.get(one), None if name == base else groups[base][one], name) for one in _settings()
        ]
        for name, found in groups.items()
    }


def _cell(own: Mapping[int, float] | None, base: Mapping[int, float] | None, name: tuple[str, ...]) -> str:
    if not own:
        return "–"
    if base is None:
        found = summarise(own.values())
        return f"{found.mean:.2f} ± {found.deviation:.2f} (n = {found.n})"
    change = compare_paired(own, base, names=(" ".join(name), "base"))
    return f"{change.mean:+.2f} ± {change.deviation or 0:.2f} (n = {change.n})"


FEATURES_TABLES: dict[str, Callable[[], str]] = {
    "features-losses": losses,
    "features-statistics": statistics,
    "features-provenance": provenance,
}
