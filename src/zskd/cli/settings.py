"""How a command gets its settings: defaults, under the preset, under the recipe, under the options given."""

from __future__ import annotations

from contextvars import ContextVar
from functools import reduce
from typing import Any

from cyclopts import App, ArgumentCollection

from zskd.config import Recipe
from zskd.recipes import layers, to_recipe

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
