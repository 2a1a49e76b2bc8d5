"""Recipes: YAML files that set fields of `config.Recipe`, over a preset, under the command line.

The preset `default` is the defaults of the dataclasses and has no file. The files of the others spell
out every setting of targets, synthesis and distillation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from zskd.config.identity import recipe_adapter, to_values
from zskd.config.recipe import Recipe
from zskd.config.yaml import check_keys, merge, parse_yaml, read_yaml, suggestion, yaml_names
from zskd.core.errors import ZskdError

DEFAULT_PRESET = "default"
_HERE = Path(__file__).parents[1] / "recipes"
_RIVALS = (("", "count", "rate"), ("teacher", "steps", "epochs"), ("distill", "steps", "epochs"))
"""Group and two settings that say the same thing in two ways: the one set last counts."""
_RATES = "rates"
"""Key of a preset's table of settings that belong to one rate each."""


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return yaml_names(_HERE)


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return [DEFAULT_PRESET, *yaml_names(_HERE / "presets")]


def load_recipe(recipe: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Return a recipe with everything resolved.

    Args:
        recipe: name of a shipped recipe, a YAML file, or None for the defaults.
        overrides: nested values that win over the file, e.g. `{"synthesis": {"steps": 40}}`.

    Raises:
        ZskdError: unknown recipe, preset or key (the nearest is suggested), or a wrong value.
    """
    return to_recipe(layers(recipe, overrides or {}), source=str(recipe or "the settings"))


def layers(recipe: str | Path | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Lay preset, recipe file and overrides over each other and return the nested values that are set."""
    file = read_yaml(str(recipe), _HERE, "recipe") if recipe is not None else {}
    check_keys(file, Recipe, source=str(recipe))
    check_keys(overrides, Recipe, source="the settings")
    top = merge(file, _without_rivals(overrides))
    preset = read_preset(str(top.get("preset", DEFAULT_PRESET)))
    by_rate = preset.pop(_RATES, {})
    at_rate = by_rate.get(_number(top.get("rate")), {})
    # a setting given inside a group leaves the others of that group at their defaults, not at zero
    below = merge(merge(to_values(Recipe()), preset), at_rate)
    return merge(below, _without_rivals(top))


def read_preset(name: str) -> dict[str, Any]:
    """Read a preset's values.

    Raises:
        ZskdError: there is none of that name.
    """
    if name == DEFAULT_PRESET:
        return {}
    if name not in preset_names():
        raise ZskdError(f"unknown preset {name!r}{suggestion(name, preset_names())}")
    return parse_yaml((_HERE / "presets" / f"{name}.yaml").read_text("utf-8"), name)


def to_recipe(values: Mapping[str, Any], source: str) -> Recipe:
    """Validate nested values.

    Raises:
        ZskdError: a value has the wrong type or lies outside its range.
    """
    check_keys(values, Recipe, source=source)
    try:
        return recipe_adapter().validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ZskdError(
            f"{source}: {where} is {first['input']!r}: {_without_prefix(first['msg'])}"
        ) from error


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


def _without_prefix(text: str) -> str:
    """A validator's message without the validator's own words."""
    return " ".join(text.removeprefix("Value error, ").split())
