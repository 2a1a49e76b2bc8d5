"""How a command gets its settings: defaults, under the preset, under the recipe, under the options given."""

from __future__ import annotations

from contextvars import ContextVar
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App, ArgumentCollection

from zskd.config import Recipe
from zskd.recipes import layers, to_recipe

if TYPE_CHECKING:
    from zskd.classifier import Classifier

_given: ContextVar[tuple[tuple[str, ...], ...]] = ContextVar("given", default=())


def note_given(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Remember which options stand on the command line; cyclopts calls this between parsing and conversion.

    A converted dataclass no longer tells a value that was given from one that is its default.
    """
    names = [argument.names[0] for argument in arguments if argument.tokens]
    _given.set(
        tuple(
            tuple(name.removeprefix("--").replace("-", "_").split("."))
            for name in names
            if name.startswith("--")
        )
    )


def resolve(recipe: str | None, **parsed: Any) -> Recipe:
    """Return the full recipe: the options given win over the recipe, it over its preset.

    Args:
        recipe: name or file; None for the defaults.
        parsed: the command's settings by the names of `Recipe`'s fields.

    Raises:
        ZskdError: as `load_recipe` does.
    """
    overrides: dict[str, Any] = {}
    for path in _given.get():
        if path[0] in parsed:
            value = reduce(getattr, path[1:], parsed[path[0]])
            group = reduce(lambda level, key: level.setdefault(key, {}), path[:-1], overrides)
            group[path[-1]] = value
    return to_recipe(layers(recipe, overrides), source=recipe or "the options")


def ready_teacher(folder: Path, model: str | None, recipe: Recipe) -> Classifier:
    """Return the teacher of a checkpoint, frozen, on the device of the settings and run as they say.

    Args:
        folder: of the checkpoint.
        model: factory that may run, for a network of the user's own code.
        recipe: has the settings.
    """
    from zskd.checkpoint import load_checkpoint
    from zskd.machine import choose_device

    teacher = load_checkpoint(folder, model=model)[0].freeze().to(choose_device(recipe.device))
    teacher.rewrite = recipe.rewrite
    return teacher
