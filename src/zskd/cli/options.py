"""Settings of a command: defaults < preset < recipe < command-line options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import copy
from dataclasses import dataclass, fields
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from zskd.cli.typed import check_effect, given, note_ignored, note_no_folder
from zskd.config.groups import MACHINE, OUTPUT, RUN_DETAILS
from zskd.config.loading import load_recipe, override, recipe_names
from zskd.config.presets import RECIPES
from zskd.config.recipe import Recipe
from zskd.config.trust import check_trust
from zskd.config.yaml import read_yaml
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress, default_progress
from zskd.experiment.definition import experiment_names

if TYPE_CHECKING:
    from zskd.models.classifier import Classifier

Flag = Annotated[bool, Parameter(negative="")]
"""A switch without a negative form."""
RecipeName = Annotated[str, Parameter(help=f"{', '.join(recipe_names())}, or FILE.yaml")]
"""A recipe of the package, or the user's own."""
ExperimentName = Annotated[str, Parameter(help=f"{', '.join(experiment_names())}, or FILE.yaml")]
"""An experiment of the package, or the user's own."""


@Parameter(name="*", group=MACHINE)
@dataclass(frozen=True, kw_only=True)
class Machine:
    """How one stage uses this machine; nothing of it changes what is made, beyond rounding."""

    workers: int = 0
    """Number of parallel processes; 0 for one per core. 1 starts no other process."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1."""
    rewrite: bool = True
    """Run faster, equivalent networks."""


@Parameter(name="*", group=OUTPUT)
@dataclass(frozen=True, kw_only=True)
class Detail:
    """How much a command tells while it works."""

    quiet: Flag = False
    """Print only the result."""
    verbose: Annotated[bool, Parameter(name=("--verbose", "-v"), negative="")] = False
    """Also print the choices for this machine."""

    def progress(self) -> Progress:
        """Return what prints the progress."""
        return default_progress(self.quiet, self.verbose)


@Parameter(name="*", group=RUN_DETAILS)
@dataclass(frozen=True, kw_only=True)
class Trust:
    """Which code of a file of settings may run."""

    trust: tuple[str, ...] = ()
    """Code that a recipe file may run."""


class Settings:
    """The settings of a command: options override the recipe, and the recipe overrides its preset."""

    def __init__(
        self, recipe: str | None, machine: Machine | None = None, *, trust: Trust = Trust(), **parsed: Any
    ) -> None:
        """Keep what is on the command line.

        Args:
            recipe: name or file; None for the defaults.
            machine: settings of the command for this machine.
            trust: names of code in the recipe file that may run.
            parsed: the settings of the command: field of `Recipe` -> value.

        Raises:
            ZskdError: the recipe cannot be read, names code that the user has not named, or is missing where
                its code is trusted.
        """
        if recipe is None and trust.trust:
            raise ZskdError(
                "--trust names code that a recipe file may run: give --recipe FILE; code in the card of a "
                "checkpoint is named with --model"
            )
        parsed |= vars(machine) if machine else {}
        self._recipe, self._known = recipe, tuple(parsed)
        self._overrides: dict[str, Any] = {}
        for path in given():
            if path[0] in parsed:
                value = reduce(getattr, path[1:], parsed[path[0]])
                group = reduce(lambda level, key: level.setdefault(key, {}), path[:-1], self._overrides)
                group[path[-1]] = value
        self._file = {} if recipe is None else read_yaml(recipe, RECIPES, "recipe")
        if recipe is not None:
            check_trust(self._file, recipe, given=self._overrides, trust=trust.trust)

    @classmethod
    def of_recipe(cls, recipe: str | None, settings: Recipe, trust: Trust) -> Settings:
        """Return those of a command that takes every setting of a recipe as an option."""
        parsed = {field.name: getattr(settings, field.name) for field in fields(Recipe)}
        return cls(recipe, trust=trust, **parsed)

    def names(self, group: str, key: str) -> bool:
        """Return whether an option or the recipe file names a setting of a group."""
        return any(
            isinstance(level.get(group), Mapping) and key in level[group]
            for level in (self._overrides, self._file)
        )

    def has(self, key: str) -> bool:
        """Return whether an option gives a setting, by its dotted name."""
        level: Any = self._overrides
        for part in key.split("."):
            if not isinstance(level, Mapping) or part not in level:
                return False
            level = level[part]
        return True

    def over(self, more: Mapping[str, Any]) -> Settings:
        """Return these settings with some others, nested, which come before all."""
        other = copy(self)
        other._overrides = override(self._overrides, more)
        return other

    def alone(self) -> Recipe:
        """Return the recipe without a teacher: nothing is chosen for it.

        Raises:
            ZskdError: as `load_recipe` does.
        """
        return load_recipe(self._recipe, self._overrides)

    def of(self, teacher: Classifier, progress: Progress | None, *, searched: Collection[str] = ()) -> Recipe:
        """Return the recipe for a teacher.

        Args:
            teacher: for which something is chosen.
            progress: logs what is chosen.
            searched: settings that trials may differ in.

        Raises:
            ZskdError: as `recipe_for` does, or an option would change nothing.
        """
        from zskd.run.choice import recipe_for

        recipe = recipe_for(teacher, self._recipe, self._overrides, only=self._known, progress=progress)
        check_effect(recipe, searched)
        if progress is not None:  # those of trials have none
            note_no_folder(recipe.data)
            note_ignored(recipe)
        return recipe


def ready_teacher(source: Path, model: str | None, recipe: Recipe) -> Classifier:
    """Return a teacher, frozen, with the device and `rewrite` of the settings.

    Args:
        source: a checkpoint folder, or another source that tells all of its network.
        model: network of weights, or factory that may run, for a network in the user's own code.
        recipe: the settings.

    Raises:
        ZskdError: as `open_teacher` and `choose_device` do.
    """
    from zskd.core.device import choose_device
    from zskd.teacher.opening import open_teacher

    teacher = open_teacher(source, model=model)[0].to(choose_device(recipe.device))
    teacher.rewrite = recipe.rewrite
    return teacher
