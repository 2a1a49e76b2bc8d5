"""The arms of a run: the method and its controls."""

from __future__ import annotations

from dataclasses import dataclass, replace

from zskd.config.entries import Registry
from zskd.config.recipe import Recipe
from zskd.config.registry import CONTROLS
from zskd.data.datasets import Dataset, load_data
from zskd.distillation.execution import Execution
from zskd.distillation.spec import StudentSpec
from zskd.synthesis.spec import SetSpec


@dataclass(frozen=True)
class Arm:
    """The method or a control: one row of the run's table."""

    name: str
    title: str
    """Its name in tables."""
    spec: SetSpec | None
    """Of its transfer set; None where a generator makes all images."""


def student_spec(recipe: Recipe) -> StudentSpec:
    """Return the settings of the recipe's students; all arms share them."""
    return StudentSpec(student=recipe.student, seed=recipe.seed, distill=recipe.distill)


def execution(recipe: Recipe) -> Execution:
    """Return threads, workers and logging for training the recipe's students."""
    return Execution(threads=recipe.threads, workers=recipe.workers, tensorboard=recipe.tensorboard)


def plan_arms(recipe: Recipe, data: Dataset | None) -> list[Arm]:
    """Return the main arm and then its controls, with transfer sets of the same size.

    Args:
        recipe: of the run.
        data: of the run, for the size; None: loaded where a rate needs them.

    Raises:
        ZskdError: the size is not given.
    """
    spec = main_set(recipe, data) if recipe.distill.needs_set else None
    name = Registry.label(recipe.method if spec else recipe.distill.generator.method)
    main = Arm(name, f"{name.upper()} ({recipe.preset})", spec)
    controls = [_control(name, main_set(recipe, data)) for name in recipe.control_arms]
    # a control that equals the main arm is not run twice
    return [main, *(control for control in controls if control.spec != main.spec)]


def main_set(recipe: Recipe, data: Dataset | None) -> SetSpec:
    """Return what a recipe says about its transfer set.

    Raises:
        ZskdError: its size is not given.
    """
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
    """Return the number of images in each transfer set; data are loaded where a rate needs them.

    Raises:
        ZskdError: neither count nor rate is given, or there are no data for the rate.
    """
    if recipe.count is not None or recipe.data.name == "none":
        return recipe.size(None)
    return recipe.size((data or load_data(recipe.data, recipe.teacher.input_shape)).train_size)
