"""The arms of a run: the method and its controls."""

from __future__ import annotations

from dataclasses import dataclass, replace

from zskd.config.recipe import Recipe
from zskd.config.registry import CONTROLS, Registry
from zskd.data.datasets import Dataset, load_data
from zskd.distillation.execution import Execution
from zskd.distillation.spec import StudentSpec
from zskd.synthesis.spec import SetSpec


@dataclass(frozen=True)
class Arm:
    """One row of the run's table."""

    name: str
    title: str
    spec: SetSpec | None
    """Of its transfer set; None where a generator makes all images."""


def student_spec(recipe: Recipe) -> StudentSpec:
    """Return what the recipe's students are; all arms have the same."""
    return StudentSpec(student=recipe.student, seed=recipe.seed, distill=recipe.distill)


def execution(recipe: Recipe) -> Execution:
    """Return how the recipe wants its students to be trained."""
    return Execution(threads=recipe.threads, workers=recipe.workers, tensorboard=recipe.tensorboard)


def plan_arms(recipe: Recipe, data: Dataset | None) -> list[Arm]:
    """Return the main arm and its controls, all of the same size.

    Raises:
        ZskdError: that size is not given.
    """
    spec = _main_set(recipe, data) if recipe.distill.needs_set else None
    name = Registry.label(recipe.method if spec else recipe.distill.generator.method)
    main = Arm(name, f"{name.upper()} ({recipe.preset})", spec)
    controls = [_control(name, _main_set(recipe, data)) for name in recipe.controls]
    # a control that is run as the main arm is not run twice
    return [main, *(control for control in controls if control.spec != main.spec)]


def _main_set(recipe: Recipe, data: Dataset | None) -> SetSpec:
    return SetSpec(
        method=recipe.method,
        method_settings=recipe.method_settings,
        count=set_size(recipe, data),
        seed=recipe.seed,
        targets=recipe.targets,
        synthesis=recipe.synthesis,
    )


def _control(name: str, main: SetSpec) -> Arm:
    control = CONTROLS[name]
    synthesis = replace(main.synthesis, start=control.start or main.synthesis.start)
    settings = main.method_settings if control.method == main.method else {}
    spec = replace(main, method=control.method, method_settings=settings, synthesis=synthesis)
    return Arm(name, control.summary, spec)


def set_size(recipe: Recipe, data: Dataset | None) -> int:
    """Return the number of images in each transfer set; data are loaded where a rate needs them."""
    if recipe.count is not None or recipe.data.name == "none":
        return recipe.size(None)
    return recipe.size((data or load_data(recipe.data, recipe.teacher.shape)).train_size)
