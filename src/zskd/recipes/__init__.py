"""Recipes: YAML files that set fields of `config.Recipe`, over a preset, under the command line.

The preset `default` is the defaults of the dataclasses and has no file. The files of the others spell
out every setting of targets, synthesis and distillation.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from zskd.config import Game, Recipe, Rounds
from zskd.errors import ZskdError, one_line

DEFAULT_PRESET = "default"
_HERE = Path(__file__).parent
_RIVALS = (("", "count", "rate"), ("teacher", "steps", "epochs"), ("distill", "steps", "epochs"))
"""Group and two settings that say the same thing in two ways: the one set last counts."""
_LATER: tuple[tuple[str, str, Any], ...] = (
    ("", "budget", None),
    ("data", "twin", "none"),
    ("targets", "spread", 1.0),
    ("teacher", "optimiser", "adam"),
    ("teacher", "seed", None),
    ("distill", "start", "random"),
    ("distill", "optimiser", "adam"),
    ("distill", "attention", 0.0),
    ("distill", "game", dataclasses.asdict(Game())),
    ("distill", "rounds", dataclasses.asdict(Rounds())),
)
"""Group, name and neutral value of settings that are younger than the records: with this value a result is
what it was before there was the setting, and so is its hash."""
_FORMER = {"weights": "last", "ema_decay": 0.999}
"""Settings of each training that are no more, with the values of all records: hashes still count them."""
_adapter = cache(partial(TypeAdapter, Recipe))
"""The validator: it takes long to build, and an experiment reads hundreds of recipes."""
_RATES = "rates"
"""Key of a preset's table of settings that belong to one rate each."""


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return _names(_HERE)


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return [DEFAULT_PRESET, *_names(_HERE / "presets")]


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
        raise ZskdError(f"unknown preset {name!r}{_near(name, preset_names())}")
    return _parse((_HERE / "presets" / f"{name}.yaml").read_text("utf-8"), name)


def to_recipe(values: Mapping[str, Any], source: str) -> Recipe:
    """Validate nested values.

    Raises:
        ZskdError: a value has the wrong type or lies outside its range.
    """
    check_keys(values, Recipe, source=source)
    try:
        return _adapter().validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ZskdError(
            f"{source}: {where} is {first['input']!r}: {_without_prefix(first['msg'])}"
        ) from error


def to_yaml(recipe: Recipe) -> str:
    """Return a resolved recipe as YAML, every setting spelled out."""
    return yaml.safe_dump(to_values(recipe), sort_keys=False, allow_unicode=True, default_flow_style=None)


def to_values(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as nested plain values."""
    values: dict[str, Any] = _adapter().dump_python(recipe, mode="json")
    return values


def identity(recipe: Recipe) -> dict[str, Any]:
    """Return what results are made of: sources are known by their hashes and not by where they lie."""
    values = to_values(recipe)
    # these change nothing; the first is younger than the hashes of runs that there are
    del values["tensorboard"]
    values["workers"] = values["distill"]["images"] = None
    values["data"]["dir"] = values["teacher"]["path"] = values["teacher"]["golden"] = None
    if values["teacher"]["seed"] == values["seed"]:
        values["teacher"]["seed"] = None  # the teacher that a run of this seed has anyway
    for training in ("teacher", "distill"):
        values[training] |= _FORMER
    for group, setting, absent in _LATER:
        level = values[group] if group else values
        if level[setting] == absent:
            del level[setting]
    return values


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values where those of `above` win."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


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


def check_keys(values: Mapping[str, Any], kind: type, source: str, path: str = "") -> None:
    """Refuse keys that are no setting.

    Raises:
        ZskdError: naming the file, the key and the nearest setting.
    """
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            raise ZskdError(f"{source}: unknown key {path}{key}{_near(str(key), list(hints), path)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise ZskdError(f"{source}: {path}{key} is a group of settings, not {value!r}")
            check_keys(value, hints[key], source, f"{path}{key}.")


def _without_prefix(text: str) -> str:
    """A validator's message without the validator's own words."""
    return " ".join(text.removeprefix("Value error, ").split())


def read_yaml(name: str, folder: Path, kind: str) -> dict[str, Any]:
    """Read a file of the package by its name, or one of the user's by its path.

    Args:
        name: of a file in `folder`, without its ending, or a path.
        folder: of the package.
        kind: what it is, for messages: "recipe", "experiment".

    Raises:
        ZskdError: there is none, or it is no YAML file.
    """
    if name in _names(folder):
        return _parse((folder / f"{name}.yaml").read_text("utf-8"), name)
    path = Path(name)
    if not path.is_file():
        raise ZskdError(f"there is no {kind} {name!r}{_near(name, _names(folder))}; or name a YAML file")
    try:
        return _parse(path.read_text(encoding="utf-8"), name)
    except (OSError, UnicodeDecodeError) as error:
        raise ZskdError(f"cannot read {path}: {one_line(error)}") from error


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ZskdError(f"{source} is no YAML file: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise ZskdError(f"{source} must hold settings as `key: value`")
    return values


def _names(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _near(name: str, choices: list[str], path: str = "") -> str:
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f": did you mean {path}{near[0]}?" if near else f": choose one of {', '.join(choices)}"
