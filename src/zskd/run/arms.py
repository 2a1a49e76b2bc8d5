"""The arms of a run, the method and its controls, and the students that are trained on their sets."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count

from zskd.config.distillation import DistillConfig
from zskd.config.engines import open_engine
from zskd.config.entries import Registry
from zskd.config.recipe import Recipe
from zskd.config.registry import CONTROLS
from zskd.config.synthesis import SynthesisConfig
from zskd.data.datasets import Dataset, load_data
from zskd.distillation.execution import Execution
from zskd.distillation.spec import StudentSpec
from zskd.synthesis.methods.base import Method
from zskd.synthesis.spec import SetSpec

_LONGEST = 80
"""Characters of the name of a student's folder."""


@dataclass(frozen=True)
class Arm:
    """The method or a control: one row of the run's table."""

    name: str
    title: str
    """Its name in tables."""
    spec: SetSpec | None
    """Of its transfer set; None where a generator makes all images."""
    set_name: str
    """Of the folder of this set, which two arms may share."""
    pictures: bool = False
    """Whether its student is shown the pictures of `--images` and `--few` as well."""


@dataclass(frozen=True)
class Trainee:
    """A student of a run."""

    name: str
    """Of its folder."""
    arm: Arm
    spec: StudentSpec


def student_spec(recipe: Recipe, student: str | None = None, *, pictures: bool = True) -> StudentSpec:
    """Return the settings of a student; all students of a run share them.

    Args:
        recipe: of the run.
        student: another name than the recipe's.
        pictures: whether it is shown the recipe's pictures, if there are any.
    """
    distill = recipe.distill
    if recipe.picture_folders and not pictures:
        distill = replace(distill, pictures=replace(distill.pictures, share=0.0, few_share=0.0))
    return StudentSpec(student=student or recipe.student, seed=recipe.seed, distill=distill)


def plan_students(recipe: Recipe, arms: Sequence[Arm]) -> list[Trainee]:
    """Return the run's own student for each arm, and then the other students of the main arm.

    Args:
        recipe: of the run.
        arms: from `plan_arms`.
    """
    planned = [Trainee(arm.name, arm, student_spec(recipe, pictures=arm.pictures)) for arm in arms]
    taken = {one.name for one in planned}
    for student in recipe.every_student[1:]:
        name = folder_name(f"{arms[0].name}@{student}", taken)
        taken.add(name)
        planned.append(Trainee(name, arms[0], student_spec(recipe, student)))
    return planned


def trained_as(one: Trainee) -> DistillConfig:
    """Return the settings that a student is trained with: the control of a generator has a set instead."""
    return one.spec.trained_with(images=one.arm.spec is not None)


def folder_name(text: str, taken: Container[str]) -> str:
    """Return a text as the name of a folder, which is not taken: `zskd@narrow-0.5`."""
    plain = re.sub(r"[^A-Za-z0-9@._]+", "-", text).strip("-.")[:_LONGEST]
    numbered = (f"{plain}-{number}" for number in count(2))
    return next(name for name in chain([plain], numbered) if name not in taken)


def execution(recipe: Recipe) -> Execution:
    """Return engine, threads, workers and logging for training the recipe's students."""
    return Execution(
        threads=recipe.threads,
        workers=recipe.workers,
        tensorboard=recipe.tensorboard,
        engine=open_engine(recipe.engine),
        helpers=not recipe.distill.follows_student,
    )


def plan_arms(recipe: Recipe, data: Dataset | None) -> list[Arm]:
    """Return the main arm and then its controls, with transfer sets of the same size.

    With pictures of the user's, the main arm has them, and the next one is the same without them.

    Args:
        recipe: of the run.
        data: of the run, for the size; None: loaded where a rate needs them.

    Raises:
        ZskdError: the size is not given.
    """
    spec = main_set(recipe, data) if recipe.distill.needs_set else None
    name = Registry.label(recipe.method if spec else recipe.distill.generator.method)
    main = [Arm(name, f"{name.upper()} ({recipe.preset})", spec, name)]
    if recipe.picture_folders:
        alone = f"{main[0].title} alone"
        more = ", ".join(f"--{kind}" for kind in recipe.picture_folders)
        main = [
            replace(main[0], title=f"{main[0].title} + {more}", pictures=True),
            Arm(f"{name}_alone", alone, spec, name),
        ]
    controls = [_control(name, main_set(recipe, data)) for name in recipe.control_arms]
    # a control that equals the main arm is not run twice
    return [*main, *(control for control in controls if control.spec != spec)]


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
    synthesis = optimisation(main.synthesis, main.own_method)
    synthesis = replace(synthesis, start=control.start or synthesis.start)
    settings = main.method_settings if control.method == main.method else {}
    spec = replace(main, method=control.method, method_settings=settings, synthesis=synthesis)
    return Arm(name, control.summary, spec, name)


def optimisation(config: SynthesisConfig, method: Method) -> SynthesisConfig:
    """Return the settings of images that are optimised beside those of a method: of a control, or held out.

    Args:
        config: settings of the method's images. Start images, sizes and storage hold for both.
        method: where it makes its images otherwise, as boundary pairs, its steps are others: the usual ones
            hold.
    """
    if method.by_objective:
        return config
    kept = ("start", "candidates", "noise_share", "missed", "batch_size", "shard_size", "shard_mb")
    values = {name: getattr(config, name) for name in (*kept, "precision", "storage")}
    return replace(SynthesisConfig(), **values)


def set_size(recipe: Recipe, data: Dataset | None) -> int:
    """Return the number of images in each transfer set; data are loaded where a rate needs them.

    Raises:
        ZskdError: neither count nor rate is given, or there are no data for the rate.
    """
    if recipe.count is not None or recipe.data.name == "none":
        return recipe.size(None)
    return recipe.size((data or load_data(recipe.data, recipe.teacher.input_shape)).train_size)
