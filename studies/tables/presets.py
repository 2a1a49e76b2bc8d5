"""The table of docs/methods/zskd.md that compares the presets, computed from the recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zskd.config.identity import to_values
from zskd.config.loading import load_recipe
from zskd.config.presets import DEFAULT_PRESET, preset_changes, preset_names

_ORDER = [
    "paper",
    "release",
    "reproduction",
    "dafl",
    "zskt",
    "dfad",
    "dfq",
    "conditional",
    "first",
    "default",
]


def presets() -> str:
    """Every setting of targets, synthesis and distillation in every preset of this method."""
    own = [name for name in preset_names() if name == DEFAULT_PRESET or "method" not in preset_changes(name)]
    names = sorted(own, key=_ORDER.index)
    columns = [_flat(to_values(load_recipe(None, {"preset": name}))) for name in names]
    lines = [f"| setting | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for key in columns[0]:
        if key.split(".")[0] in ("targets", "synthesis", "distill"):
            lines.append(f"| `{key}` | {' | '.join(_cell(column[key]) for column in columns)} |")
    return "\n".join(lines)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_cell(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


PRESETS_TABLES: dict[str, Callable[[], str]] = {"presets": presets}
