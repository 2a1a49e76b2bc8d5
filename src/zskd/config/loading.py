"""Loading of recipes: YAML files with settings. They override a preset; the command line overrides them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from zskd.config.checks import check_keys, from_values
from zskd.config.identity import from_former_keys, to_values
from zskd.config.presets import DEFAULT_PRESET, RATES, RECIPES, read_preset
from zskd.config.recipe import Recipe
from zskd.config.rule import Row
from zskd.config.yaml import merge, read_yaml, yaml_names
from zskd.core.errors import ZskdError

_ALTERNATIVES = (("", "count", "rate"), ("teacher", "steps", "epochs"), ("distill", "steps", "epochs"))
"""Group and two settings with the same purpose: the one that is set last is used."""


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return yaml_names(RECIPES)


def load_recipe(
    recipe: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    chosen: Mapping[str, Any] | None = None,
) -> Recipe:
    """Return a recipe with all settings resolved.

    Args:
        recipe: name of a shipped recipe, a YAML file, or None for the defaults.
        overrides: nested values that override the file, e.g. `{"synthesis": {"steps": 40}}`.
        chosen: what was chosen for the teacher, by `choices`.

    Raises:
        ZskdError: unknown recipe, preset or key (the nearest is suggested), a wrong value, or a preset of
            which the file leaves nothing but the name.
    """
    overrides, chosen = overrides or {}, chosen or {}
    found = from_values(Recipe, layers(recipe, overrides, chosen), str(recipe or "the settings"))
    if recipe is not None and "preset" in overrides:
        _check_preset(found, recipe, {key: one for key, one in overrides.items() if key != "preset"}, chosen)
    return found


def _check_preset(
    found: Recipe, recipe: str | Path, others: Mapping[str, Any], chosen: Mapping[str, Any]
) -> None:
    """Refuse a preset beside a file that names all that it would change: results would carry its name."""
    try:
        without = from_values(Recipe, layers(recipe, others, chosen), str(recipe))
    except ZskdError:  # what is given needs the preset
        return
    if without.preset != found.preset and replace(without, preset=found.preset) == found:
        raise ZskdError(
            f"--preset {found.preset} changes nothing: {recipe} names all settings itself; leave it out, or "
            "give --method and single settings"
        )


def choices(
    recipe: str | Path | None, overrides: Mapping[str, Any], rows: Sequence[Row], *, sized: bool = False
) -> dict[str, Any]:
    """Return the values of the rule for settings that neither recipe nor overrides name.

    Args:
        recipe: name of a shipped recipe, a YAML file, or None.
        overrides: nested values.
        rows: that hold for the teacher.
        sized: whether the number of images is chosen with any preset, because a budget lowers it.

    Raises:
        ZskdError: unknown recipe or key.
    """
    top = _top(recipe, overrides)
    named = {key for key, value in top.items() if value is not None}
    named |= {one for pair in _ALTERNATIVES if not pair[0] and named & {*pair[1:]} for one in pair[1:]}
    named |= {"student"} if "students" in named else set()
    own = [row.values["preset"] for row in rows if "preset" in row.values]
    if not sized and "preset" in named and top["preset"] not in own:  # a published method has its own sizes
        named |= {"count"}
    return {key: value for row in rows for key, value in row.values.items() if key not in named}


def layers(
    recipe: str | Path | None, overrides: Mapping[str, Any], chosen: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge what was chosen, preset, recipe file and overrides (later ones win) and return nested values.

    Args:
        recipe: name of a shipped recipe, a YAML file, or None.
        overrides: nested values.
        chosen: for the teacher, with a preset or without.

    Raises:
        ZskdError: unknown recipe, preset or key.
    """
    top = merge(_top(recipe, overrides), chosen)  # nothing is chosen that was named
    preset = read_preset(str(top.get("preset", DEFAULT_PRESET)))
    by_rate = preset.pop(RATES, {})
    at_rate = by_rate.get(_number(top.get("rate")), {})
    # when one setting of a group is given, the others keep their defaults
    below = merge(merge(to_values(Recipe()), preset), at_rate)
    return override(below, top)


def override(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings of both.

    Those of `above` come first, also against their alternatives: its epochs against steps of `below`. Where
    its method is another one, the method's settings in `below` are left out.
    """
    if "method" in below and above.get("method", below["method"]) != below["method"]:
        below = {key: value for key, value in below.items() if key != "method_settings"}
    return merge(below, _without_alternatives(above))


def _top(recipe: str | Path | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return what recipe file and overrides name."""
    file = from_former_keys(read_yaml(str(recipe), RECIPES, "recipe")) if recipe is not None else {}
    check_keys(file, Recipe, source=str(recipe))
    check_keys(overrides, Recipe, source="the settings")
    return override(file, overrides)


def to_yaml(recipe: Recipe) -> str:
    """Return a resolved recipe as YAML with all settings."""
    return yaml.safe_dump(to_values(recipe), sort_keys=False, allow_unicode=True, default_flow_style=None)


def _number(value: Any) -> float | None:
    """Return a rate as a number; None for other values, which the validation reports later."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _without_alternatives(values: Mapping[str, Any]) -> dict[str, Any]:
    """Set a setting to None when its alternative is given, so that lower layers do not set it."""
    result = _with_own_student(values)
    for group, one, other in _ALTERNATIVES:
        if not isinstance(result.get(group, {}), Mapping):
            continue  # it is refused later
        level = dict(result.get(group, {})) if group else result
        for given, alternative in ((one, other), (other, one)):
            if level.get(given) is not None and alternative not in level:
                level[alternative] = None
        if group and level:
            result[group] = level
    return result


def _with_own_student(values: Mapping[str, Any]) -> dict[str, Any]:
    """Let one student take the place of several in lower layers, and several that of one."""
    result, several = dict(values), values.get("students")
    if isinstance(several, list | tuple) and several and "student" not in values:
        result["student"] = several[0]
    if "student" in values and "students" not in values:
        result["students"] = ()
    return result
