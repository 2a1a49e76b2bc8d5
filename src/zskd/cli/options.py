"""How a command gets its settings: defaults, under the preset, under the recipe, under the options given."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import App, ArgumentCollection, Parameter

from zskd.config.checks import from_values
from zskd.config.loading import layers
from zskd.config.recipe import Recipe
from zskd.core.errors import ZskdError

if TYPE_CHECKING:
    from zskd.models.classifier import Classifier
if TYPE_CHECKING:
    from zskd.evaluation.agreement import Estimate
    from zskd.models.classifier import Classifier

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
    return from_values(Recipe, layers(recipe, overrides), recipe or "the options")


def ready_teacher(folder: Path, model: str | None, recipe: Recipe) -> Classifier:
    """Return the teacher of a checkpoint, frozen, on the device of the settings and run as they say.

    Args:
        folder: of the checkpoint.
        model: factory that may run, for a network of the user's own code.
        recipe: has the settings.
    """
    from zskd.core.device import choose_device
    from zskd.models.checkpoint import load_checkpoint

    teacher = load_checkpoint(folder, model=model)[0].freeze().to(choose_device(recipe.device))
    teacher.rewrite = recipe.rewrite
    return teacher


Flag = Annotated[bool, Parameter(negative="")]
"""A switch that is either given or not."""
Verbose = Annotated[bool, Parameter(name=("--verbose", "-v"), negative="")]
"""The switch for details."""


def say(text: str) -> None:
    """Print a result on standard output."""
    print(text, file=sys.stdout, flush=True)


def print_matrix(title: str, values: np.ndarray, names: tuple[str, ...]) -> None:
    """Print a (K, K) matrix with its class names, two digits behind the point."""
    width = max(6, *(len(name) + 1 for name in names))
    say(f"{title}:")
    say(" " * width + "".join(name.rjust(width) for name in names))
    for name, row in zip(names, values, strict=True):
        say(name.rjust(width) + "".join(f"{value:.2f}".rjust(width) for value in row))


def say_estimate(teacher: Classifier, student: Classifier, *, from_real: bool) -> Estimate | None:
    """Print how a student may agree with its teacher on real images, unless it learned from some."""
    from zskd.evaluation.agreement import estimate_agreement

    if from_real:
        say("agreement on real images is not estimated: this is for students that have not seen any")
        return None
    estimate = estimate_agreement(teacher, student)
    for line in estimate.lines():
        say(line)
    return estimate


def must_be_new(folder: Path) -> None:
    """Refuse to write over a finished checkpoint."""
    if (folder / "card.json").exists():
        raise ZskdError(f"{folder} is finished already: choose another folder, or delete it")
