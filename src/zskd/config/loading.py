"""Recipes: YAML files that set fields of `Recipe`, over a preset, under the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from zskd.config.checks import check_keys, from_values
from zskd.config.identity import from_former_keys, to_values
from zskd.config.presets import DEFAULT_PRESET, RATES, RECIPES, read_preset
from zskd.config.recipe import Recipe
from zskd.config.yaml import merge, read_yaml, yaml_names

_RIVALS = (("", "count", "rate"), ("teacher", "steps", "epochs"), ("distill", "steps", "epochs"))
"""Group and two settings that say the same thing in two ways: the one set last counts."""


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return yaml_names(RECIPES)


def load_recipe(recipe: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Return a recipe with everything resolved.

    Args:
        recipe: name of a shipped recipe, a YAML file, or None for the defaults.
        overrides: nested values that win over the file, e.g. `{"synthesis": {"steps": 40}}`.

    Raises:
        ZskdError: unknown recipe, preset or key (the nearest is suggested), or a wrong value.
    """
    return from_values(Recipe, layers(recipe, overrides or {}), str(recipe or "the settings"))


def layers(recipe: str | Path | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Lay preset, recipe file and overrides over each other and return the nested values that are set."""
    file = from_former_keys(read_yaml(str(recipe), RECIPES, "recipe")) if recipe is not None else {}
    check_keys(file, Recipe, source=str(recipe))
    check_keys(overrides, Recipe, source="the settings")
    top = merge(file, _without_rivals(overrides))
    preset = read_preset(str(top.get("preset", DEFAULT_PRESET)))
    by_rate = preset.pop(RATES, {})
    at_rate = by_rate.get(_number(top.get("rate")), {})
    # a setting given inside a group leaves the others of that group at their defaults, not at zero
    below = merge(merge(to_values(Recipe()), preset), at_rate)
    return merge(below, _without_rivals(top))


def to_yaml(recipe: Recipe) -> str:
    """Return a resolved recipe as YAML, every setting spelled out."""
    return yaml.safe_dump(to_values(recipe), sort_keys=False, allow_unicode=True, default_flow_style=None)


def _number(value: Any) -> float | None:
    """A rate as a number, for looking it up; what is none is told by the validation."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _without_rivals(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add a None for each setting whose rival is set, so that it also leaves the layers below."""
    result = dict(values)
    for group, one, other in _RIVALS:
        level = dict(result.get(group, {})) if group else result
        for mine, theirs in ((one, other), (other, one)):
            if level.get(mine) is not None and theirs not in level:
                level[theirs] = None
        if group and level:
            result[group] = level
    return result
