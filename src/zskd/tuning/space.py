"""What is searched: settings of a recipe by their dotted names, each with a range or with choices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from decimal import Decimal
from itertools import product
from pathlib import Path
from reprlib import repr as short
from typing import Any, get_args, get_origin, get_type_hints

from zskd.config.checks import check_keys, suggestion
from zskd.config.recipe import Recipe
from zskd.config.trust import check_trust
from zskd.config.yaml import merge, parse_yaml
from zskd.core.artefact import JsonObject, JsonValue
from zskd.core.code import split_names
from zskd.core.errors import ZskdError
from zskd.core.reading import read_bytes
from zskd.distillation.adversarial.base import make_generator_method
from zskd.synthesis.methods.base import make_method

_SEARCHED = (
    "preset",
    "method",
    "method_settings",
    "count",
    "rate",
    "student",
    "targets",
    "synthesis",
    "distill",
)
"""Settings, and groups of them, that trials may differ in."""
_METHOD_OF = {
    "method_settings": "method",
    "distill.generator.method_settings": "distill.generator.method",
}
"""Settings of one method -> the setting that names it."""
_LARGEST = 1 << 20
_DIGITS = 4
"""Significant digits of a value from a range without steps; no setting is known better."""
_KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    """Whether their logarithm is searched."""
    step: float | None = None
    """Distance of two values; None: any number between them."""
    whole: bool = False
    """Whether the setting takes integers only."""

    @property
    def count(self) -> int | None:
        """Number of values; None where there is no end of them."""
        if self.step is None:
            return None
        low, high, step = (Decimal(str(one)) for one in (self.low, self.high, self.step))
        return int((high - low) / step) + 1

    def point(self, number: int) -> float:
        """Return a value of a range with steps; they are counted from 0."""
        found = Decimal(str(self.low)) + number * Decimal(str(self.step))
        return int(found) if self.whole else float(found)

    def plain(self, value: float) -> int | float:
        """Return a value as it stands in a recipe."""
        if self.whole:
            return int(value)
        if self.step is not None:
            return float(value)
        return min(self.high, max(self.low, float(f"{value:.{_DIGITS}g}")))

    def to_json(self) -> JsonObject:
        """Return it as in a file."""
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}


@dataclass(frozen=True)
class Choices:
    """Values that are tried as they stand."""

    values: tuple[JsonValue, ...]

    def to_json(self) -> JsonObject:
        """Return it as in a file."""
        return {"choices": list(self.values)}


Space = dict[str, Range | Choices]
"""Dotted name of a setting -> the values that it may have."""


def read_space(file: Path | None, over: Sequence[str], *, trust: Collection[str] = ()) -> Space:
    """Return a space from a YAML file and from what was typed, which comes first.

    Args:
        file: `distill.tau: {low: 1, high: 20}`; keys of a range are low, high, log and step, else choices.
        over: `distill.tau=1..20`, with `:log` or `:STEP` behind it, or `synthesis.start=shapes,procedural`.
        trust: names of code in the file that may run.

    Raises:
        ZskdError: there is nothing to search, or a key or a value is wrong.
    """
    space: Space = {}
    if file is not None:
        values = parse_yaml(read_bytes(file, "a file of settings to search", _LARGEST), str(file))
        check_trust(values, str(file), trust=trust)
        space |= {str(key): _of_file(str(key), value, str(file)) for key, value in values.items()}
    typed = Counter(text.partition("=")[0] for text in over)
    for text in over:
        key, equals, value = text.partition("=")
        if typed[key] > 1:
            raise ZskdError(
                f"--over {short(key)} is given {typed[key]} times: give one range or all its choices"
            )
        if not equals:
            raise ZskdError(f"--over {short(text)} has no values: write {key}=LOW..HIGH, or {key}=A,B")
        space[key] = _typed(key, value)
    if not space:
        raise ZskdError("there is nothing to search: give --search FILE.yaml, or --over KEY=LOW..HIGH")
    return space


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with dotted names as nested groups: `{"distill": {"tau": 4}}`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        found = merge(found, value)
    return found


def check_space(space: Space, recipe_of: Callable[[dict[str, Any]], Recipe]) -> Space:
    """Check that a recipe takes the ends of every range, and every choice.

    Settings of a method are checked with each method that is searched.

    Args:
        space: of the search.
        recipe_of: returns the recipe with some nested settings.

    Returns:
        The space, with ranges of integers also for settings of a method that takes no others.

    Raises:
        ZskdError: it does not.
    """
    found, generated = dict(space), "distill.generator.share" in space
    groups = {key.rpartition(".")[0] for key in space}
    for group, method in _METHOD_OF.items():
        if not {group, method, "preset"} & (groups | space.keys()):
            _make(recipe_of({}), group, generated)
    for key, one in space.items():
        group, _, name = key.rpartition(".")
        by = next((other for other in (_METHOD_OF.get(group), "preset") if other in space), None)
        methods = [{by: value} for value in _ends(space[by])] if by and group in _METHOD_OF else [{}]
        made = []
        for value, beside in product(_ends(one), methods):
            try:
                made.append(_make(recipe_of(nested(beside | {key: value})), group, generated))
            except ZskdError as error:
                told = "".join(f" with {name} {other}" for name, other in beside.items())
                raise ZskdError(f"{key} cannot be {short(value)}{told}: {error}") from error
        types = [_types(get_type_hints(type(each)).get(name)) for each in made]
        if isinstance(one, Range) and all(int in each and float not in each for each in types):
            found[key] = _range_of(one.low, one.high, one.log, one.step, key, whole=True)
    return found


def _make(recipe: Recipe, group: str, generated: bool) -> object:
    """Make the method that has the settings of a group; None where nothing reads them.

    Args:
        recipe: of a trial.
        group: of the settings.
        generated: whether a generator makes images in some trial.

    Raises:
        ZskdError: the method does not take its settings.
    """
    generator = recipe.distill.generator
    if group == "method_settings" and recipe.distill.needs_set:
        return make_method(recipe.method, recipe.method_settings)
    if group == "distill.generator.method_settings" and (generator.share or generated):
        return make_generator_method(generator.method, generator.method_settings)
    return None


def _ends(one: Range | Choices) -> tuple[JsonValue, ...]:
    """Return the ends of a range, or all choices."""
    return (one.plain(one.low), one.plain(one.high)) if isinstance(one, Range) else one.values


def _of_file(key: str, value: Any, source: str) -> Range | Choices:
    where = f"{source}: {key}"
    if not isinstance(value, Mapping):
        raise ZskdError(f"{where} is {short(value)}: write {{low: 1, high: 20}} or {{choices: [a, b]}}")
    for one in value:
        if one not in (*_KEYS, "choices"):
            raise ZskdError(f"{where}: unknown key {one}{suggestion(str(one), (*_KEYS, 'choices'))}")
    if "choices" in value:
        if len(value) > 1 or not isinstance(value["choices"], list):
            raise ZskdError(f"{where}: choices is a list, and stands alone")
        return _choices(key, value["choices"], where)
    for one in ("low", "high"):
        if one not in value:
            raise ZskdError(f"{where}: the key {one} is missing")
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise ZskdError(f"{where}: log is {short(log)}: it must be true or false")
    return _range(key, value["low"], value["high"], log, value.get("step"), where)


def _typed(key: str, text: str) -> Range | Choices:
    where = f"--over {key}"
    low, dots, rest = text.partition("..")
    if not dots or not isinstance(_as_number(low), int | float):
        values = [parse_yaml(f"value: {part}", where)["value"] for part in split_names(text)]
        return _choices(key, [_as_number(value) for value in values], where)
    high, _, how = rest.partition(":")
    return _range(key, low, high, how == "log", how if how not in ("", "log") else None, where)


def _choices(key: str, values: list[Any], where: str) -> Choices:
    _type_of(key, where)
    if not values or any(value in values[:number] for number, value in enumerate(values)):
        raise ZskdError(f"{where}: give each choice once")
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        raise ZskdError(f"{where}: choices must be finite numbers, or words")
    return Choices(tuple(values))


def _range(key: str, low: Any, high: Any, log: bool, step: Any, where: str) -> Range:
    types = _type_of(key, where)
    if not {int, float} & types:
        raise ZskdError(f"{where} is no number: give choices")
    return _range_of(low, high, log, step, where, whole=float not in types)


def _range_of(low: Any, high: Any, log: bool, step: Any, where: str, *, whole: bool) -> Range:
    first, last = _number(low, "low", where, whole), _number(high, "high", where, whole)
    if not first < last:
        raise ZskdError(f"{where}: low is {first:g} and high is {last:g}: low must be below high")
    if log and not first > 0:
        raise ZskdError(f"{where}: low is {first:g}: with log it must be above 0")
    if log and step is not None:
        raise ZskdError(f"{where}: give log or step, not both")
    if step is None:
        return Range(first, last, log, 1 if whole and not log else None, whole)
    distance = _number(step, "step", where, whole)
    if not 0 < distance <= last - first:
        raise ZskdError(f"{where}: step is {distance:g}: it must be above 0 and at most {last - first:g}")
    found = Range(first, last, log, distance, whole)
    return replace(found, high=found.point((found.count or 1) - 1))


def _type_of(key: str, where: str) -> set[Any]:
    """Return the types that a setting can have.

    Raises:
        ZskdError: there is no such setting, or all trials must have it in common.
    """
    check_keys(nested({key: None}), Recipe, where.removesuffix(key).rstrip(": "))
    hint: Any = Recipe
    for part in key.split("."):
        if is_dataclass(hint):
            hint = get_type_hints(hint)[part]
        elif get_origin(hint) is dict:  # the settings of a method
            hint = get_args(hint)[1]
        else:
            raise ZskdError(f"{where}: there is no {part} in it")
    if key.partition(".")[0] not in _SEARCHED:
        raise ZskdError(
            f"{where} cannot be searched, because all trials have the same teacher, data and seed: choose a "
            f"setting of {', '.join(_SEARCHED)}"
        )
    return _types(hint)


def _types(hint: Any) -> set[Any]:
    return set(get_args(hint) or (hint,))


def _number(value: Any, name: str, where: str, whole: bool) -> float:
    found = _as_number(value)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise ZskdError(f"{where}: {name} is {short(value)}: it must be a number")
    if whole and found != int(found):
        raise ZskdError(f"{where}: {name} is {found:g}: it must be an integer")
    return int(found) if whole else float(found)


def _as_number(value: Any) -> Any:
    """Return the number that a text holds, such as 1e-3, which YAML takes for a word; else the value."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                found = kind(value)
            except ValueError:
                continue
            plain = found.bit_length() <= 64 if isinstance(found, int) else math.isfinite(found)
            return found if plain else value
    return value
