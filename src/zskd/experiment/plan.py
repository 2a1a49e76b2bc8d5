"""The cells of an experiment: arms × rates × seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from zskd.config.identity import from_former_keys, identity
from zskd.config.loading import load_recipe, override
from zskd.config.recipe import Recipe
from zskd.config.trust import code_hashes
from zskd.core.artefact import JsonValue
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_json
from zskd.distillation.build import generated_images
from zskd.experiment.definition import TEACHER, Arm, Experiment
from zskd.experiment.record import Reported
from zskd.synthesis.methods.base import make_method
from zskd.synthesis.spec import SetSpec


@dataclass(frozen=True)
class Cell:
    """One student to train and measure, or a teacher to measure."""

    name: str
    """`ARM-RATE-SEED`, or `ARM-SEED` without a rate."""
    arm_name: str
    arm: Arm
    rate: float | None
    """Percentage of the training set, above 0, at most 100; None where the arm has no rate."""
    recipe: Recipe
    """With all settings of arm, rate and seed."""
    reported: Reported | None
    """Published accuracy of this arm at this rate, with its source; None without one."""

    def count(self, train_size: int, available: int) -> int:
        """Return the number of training images.

        Args:
            train_size: images in the full training set; `rate` is a percentage of it.
            available: images in its training part, without validation images.
        """
        if self.arm.images == "generated":
            return generated_images(self.recipe.distill)
        return self.recipe.size(train_size) if self.arm.has_rate else available

    def student_steps(self, count: int) -> int:
        """Return the number of training steps of its student on `count` images; 0 for the teacher itself."""
        if self.arm.images == "none":
            return 0
        config = self.recipe.distill
        return config.total_steps(count if config.needs_set else config.batch_size)

    def spec(self, train_size: int) -> SetSpec:
        """Return the settings of its transfer set, for an arm with `images: made`.

        Args:
            train_size: images in the full training set; `rate` is a percentage of it.
        """
        return SetSpec(
            method=self.recipe.method,
            method_settings=self.recipe.method_settings,
            count=self.recipe.size(train_size),
            seed=self.recipe.seed,
            targets=self.recipe.targets,
            synthesis=self.recipe.synthesis,
        )

    def key(self, count: int, sources: Mapping[str, JsonValue]) -> str:
        """Return the SHA-256 of everything that determines the cell; its name is no part.

        Code of the user's own is imported for its file's hash: a changed file makes another cell.

        Args:
            count: number of training images, as `count` returns it.
            sources: hashes of the data and of a given teacher.

        Raises:
            ZskdError: the code or a file is missing.
        """
        values = identity(self.recipe)
        # the count stands for the rate; the others belong to runs without an experiment
        for name in ("name", "preset", "rate", "count", "nominal_rates", "controls", "held_out"):
            values.pop(name)
        if self.arm.images != "made":
            for name in ("method", "targets", "synthesis"):
                values.pop(name)
        if self.arm.images == "none":
            for name in ("student", "distill"):
                values.pop(name)
        if code := code_hashes(from_former_keys(values)):  # which names are code, only present keys tell
            values["code"] = code
        if self.arm.images == "made" and (files := self._method_files()):
            values["files"] = files
        images = {"images": self.arm.images, "count": count, "leave_out": list(self.arm.leave_out)}
        return sha256_json(values | images | dict(sources))

    def _method_files(self) -> dict[str, str]:
        """Return the hash of what its method reads beside the teacher, by setting."""
        return dict(make_method(self.recipe.method, self.recipe.method_settings).files())


def plan_cells(experiment: Experiment, only: tuple[str, ...] = (), seeds: int | None = None) -> list[Cell]:
    """Return the cells of an experiment in the order of their seeds.

    An experiment that is stopped early then lacks seeds and not arms.

    Args:
        experiment: with all its arms.
        only: names or patterns (`default-10-*`) of cells; empty: all.
        seeds: at most so many of each arm; None: all.

    Raises:
        ZskdError: a pattern matches no cell or only cells of later seeds, two cells have one name, or the
            settings of an arm are wrong.
    """
    cells: dict[str, Cell] = {}
    for cell in _cells(experiment):
        other = cells.setdefault(cell.name, cell)
        if (other.arm_name, other.rate) != (cell.arm_name, cell.rate):
            raise ZskdError(
                f"experiment {experiment.name}: two cells are called {cell.name}: give {cell.arm_name} "
                "another name, or rates that differ more"
            )
    for pattern in only:
        if not any(_matches(name, pattern) for name in cells):
            raise ZskdError(f"no cell of {experiment.name} is called {pattern!r}: --dry-run shows them all")
    chosen = [
        cell
        for cell in sorted(cells.values(), key=lambda cell: cell.recipe.seed)
        if (not only or any(_matches(cell.name, pattern) for pattern in only))
        and (seeds is None or cell.recipe.seed < seeds)
    ]
    if not chosen:
        raise ZskdError(
            f"none of the cells called {' or '.join(only)} has a seed below {seeds}: raise --seeds"
        )
    return chosen


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)  # a name may hold brackets


def _cells(experiment: Experiment) -> Iterator[Cell]:
    teacher = Arm(title="teacher", images="none")
    # a teacher that several seeds share is measured with the first of them
    first = {experiment.teacher_of(seed): seed for seed in reversed(range(experiment.seeds))}
    for seed in sorted(first.values()):
        cell = _cell(experiment, TEACHER, teacher, None, seed)
        yield cell
        if cell.recipe.teacher.path is not None:  # one that is given is the same with all seeds
            break
    for block in experiment.plan:
        for name in block.arms:
            for rate in block.rates or (None,):
                for seed in range(block.seeds):
                    yield _cell(experiment, name, experiment.arms[name], rate, seed)


def _cell(experiment: Experiment, name: str, arm: Arm, rate: float | None, seed: int) -> Cell:
    own: dict[str, Any] = {"seed": seed} | ({} if rate is None else {"rate": rate})
    if experiment.teachers:
        own["teacher"] = {"seed": experiment.teacher_of(seed)}
    try:
        recipe = _recipe(experiment, arm, own)
    except ZskdError as error:
        raise ZskdError(f"experiment {experiment.name}, arm {name}: {error}") from error
    if recipe.budget is not None or recipe.passes is not None:
        raise ZskdError(
            f"experiment {experiment.name}: a budget is for one run, and arms are compared at equal steps: "
            "give distill.steps"
        )
    if recipe.students:
        raise ZskdError(
            f"experiment {experiment.name}: several students are for one run: give each an arm with student"
        )
    if arm.images != "none" and (arm.images == "generated") == recipe.distill.needs_set:
        raise ZskdError(
            f"experiment {experiment.name}, arm {name}: images: generated and distill.generator.share 1 mean "
            "the same: give both or neither"
        )
    label = f"{name}-{seed}" if rate is None else f"{name}-{rate:g}-{seed}"
    return Cell(label, name, arm, rate, recipe, _reported(experiment, name, rate))


def _recipe(experiment: Experiment, arm: Arm, own: dict[str, Any]) -> Recipe:
    common = override(experiment.settings, own)
    recipe = load_recipe(experiment.recipe, override(common, arm.settings))
    if recipe.picture_folders:
        raise ZskdError(f"experiment {experiment.name}: it takes no images or few: use zskd run for them")
    if arm.own_schedule:
        return recipe
    only_distill = {key: value for key, value in arm.settings.items() if key == "distill"}
    shared = load_recipe(experiment.recipe, override(common, only_distill))
    return replace(recipe, distill=shared.distill)


def _reported(experiment: Experiment, arm: str, rate: float | None) -> Reported | None:
    at = "all" if rate is None else rate
    for one in experiment.reported:
        if one.arm == arm and at in one.by_rate:
            return Reported(value=one.by_rate[at], source=one.source)
    return None
