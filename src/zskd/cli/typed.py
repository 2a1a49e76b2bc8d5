"""Which options are on the command line, and which of them would change nothing."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from contextvars import ContextVar
from dataclasses import fields
from functools import reduce
from typing import Any

from cyclopts import App, ArgumentCollection

from zskd.config.data import IN_FOLDERS, DataConfig
from zskd.config.recipe import Recipe
from zskd.config.training import FitConfig
from zskd.core.errors import ZskdError

_given: ContextVar[tuple[tuple[str, ...], ...]] = ContextVar("given", default=())
_NEEDS = {
    "distill.features": "distill.features.weight",
    "distill.generator": "distill.generator.share",
    "distill.image_bank": "distill.image_bank.share",
    "distill.fresh": "distill.fresh.share",
    "distill.replay": "distill.replay.share",
    "distill.window_mb": "distill.order by_shard",
    "distill.augment.cutout_side": "distill.augment.cutout",
    "distill.augment.jpeg_quality": "distill.augment.jpeg",
    "distill.pictures.share": "images",
    "distill.pictures.count": "images",
    "distill.pictures.few_share": "few",
}
"""Settings, and groups of them, that nothing reads where another one is absent or 0, or not of this value."""
_OF_METHODS = ("synthesis.", "targets.")
"""Settings that a method may ignore."""
_LIMITS = ("budget", "passes")
_REPLACED_BY = {
    "distill.steps": _LIMITS,
    "distill.epochs": _LIMITS,
    **{f"teacher.{one}": ("teacher.path",) for one in (*(field.name for field in fields(FitConfig)), "seed")},
}
"""Settings that nothing reads where another one is there."""


def note_given(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Store which options are on the command line; cyclopts calls this between parsing and conversion.

    After conversion, a given value cannot be told from a default value.
    """
    names = [argument.names[0] for argument in arguments if argument.tokens]
    _given.set(
        tuple(
            tuple(name.removeprefix("--").replace("-", "_").split("."))
            for name in names
            if name.startswith("--")
        )
    )


def given() -> tuple[tuple[str, ...], ...]:
    """Return the options that are on the command line, each by its parts: ("data", "name")."""
    return _given.get()


def is_given(*path: str) -> bool:
    """Return whether an option is on the command line, by its parts."""
    return path in given()


def option(name: str) -> str:
    """Return how a setting is typed: "--distill.image-bank.share" of "distill.image_bank.share".

    A value after it stays as it is: "--distill.order by_shard" of "distill.order by_shard".
    """
    setting, _, value = name.partition(" ")
    return f"--{setting}".replace("_", "-") + (value and f" {value}")


def check_effect(recipe: Recipe, searched: Collection[str] = ()) -> None:
    """Refuse options, and settings to search, that would change nothing: another one is off or replaces them.

    Args:
        recipe: with all that preset, file and options name, and what was chosen for the teacher.
        searched: settings that trials may differ in; what depends on them has an effect in some.

    Raises:
        ZskdError: there is such an option.
    """
    for name in (*map(".".join, given()), *searched):
        needed = next((one for part, one in _NEEDS.items() if f"{name}.".startswith(f"{part}.")), name)
        if name != needed and not {needed.split()[0], "preset"} & {*searched} and not _holds(recipe, needed):
            raise ZskdError(f"{option(name)} has no effect without {option(needed)}: give it, too")
        for other in _REPLACED_BY.get(name, ()):
            if _value(recipe, other) is not None:
                raise ZskdError(f"{option(name)} has no effect beside {option(other)}: leave one of them out")
    if not {"method", "preset"} & {*searched}:
        for name in _ignored(recipe, searched):
            raise ZskdError(f"{name} changes no images of --method {recipe.method}: do not search it")
    check_data(recipe.data)


def note_ignored(recipe: Recipe) -> None:
    """Print a line for each option that the method does not read: scripts give one to all methods."""
    for name in _ignored(recipe, map(".".join, given())):
        print(f"zskd: note: {option(name)} changes no images of --method {recipe.method}", file=sys.stderr)


def check_data(data: DataConfig) -> None:
    """Refuse options of real images that would change nothing.

    Raises:
        ZskdError: there is such an option.
    """
    for name in ("validation", "twin"):
        off = getattr(data, name) in (0, "none")  # says what holds without images, too
        if data.name == "none" and is_given("data", name) and not off:
            raise ZskdError(f"{data.option(name)} is for a data set: name it, as in --data.name folder")


def note_no_folder(data: DataConfig) -> None:
    """Print a line where a folder is given and the images are in none: scripts name one for all data sets."""
    named = is_given("data", "dir") or is_given("data_dir")
    if named and data.name not in IN_FOLDERS:
        print(f"zskd: note: --data-dir has no effect: {data.name} needs no files", file=sys.stderr)


def _holds(recipe: Recipe, needed: str) -> bool:
    """Return whether a setting is neither absent nor 0, or has the value that is named after it."""
    name, _, wanted = needed.partition(" ")
    found = _value(recipe, name)
    return bool(found == wanted if wanted else found)


def _ignored(recipe: Recipe, names: Iterable[str]) -> list[str]:
    """Return those of some settings that the method does not read, where it is known and makes images."""
    found = [name for name in names if name.startswith(_OF_METHODS)]
    if not found or not recipe.distill.needs_set:
        return []
    from zskd.synthesis.methods.base import make_method

    ignores = make_method(recipe.method, recipe.method_settings).ignores
    return [name for name in found if any(f"{name}.".startswith(f"{part}.") for part in ignores)]


def _value(recipe: Recipe, name: str) -> Any:
    return reduce(getattr, name.split("."), recipe)
