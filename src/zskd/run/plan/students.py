"""What the students of a run cost: each is trained for some seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from zskd.config.recipe import Recipe
from zskd.core.memory import available_memory
from zskd.core.progress import Progress
from zskd.core.tensors import stored_bytes
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.distillation.room import reading, student_need
from zskd.distillation.students import time_students
from zskd.evaluation.inspection import count_multiply_adds
from zskd.models.classifier import Classifier
from zskd.run.arms import Arm, Trainee, execution, plan_students, trained_as
from zskd.run.passes import training_counts
from zskd.run.pictures import picture_sets
from zskd.run.plan.parts import BACKWARD, Part, add_counts
from zskd.transfer_set.dataset import TransferSet


def sample_students(
    recipe: Recipe,
    teacher: Classifier,
    arms: list[Arm],
    sets: Mapping[str, TransferSet],
    folder: Path,
    *,
    seconds: float,
    workers: int,
) -> Part:
    """Train each student of a run for some seconds, and return what all of them and the user's pictures cost.

    Args:
        recipe: of the run.
        teacher: frozen.
        arms: of the run.
        sets: like those of the arms, by their names, and smaller.
        folder: for temporary files.
        seconds: that each student is timed for, with one worker and with all.
        workers: as many at the same time.

    Raises:
        ZskdError: as for `make_students`.
    """
    started = time.perf_counter()
    pictures = picture_sets(recipe, teacher, folder, Progress())
    serial = time.perf_counter() - started
    planned = plan_students(recipe, arms)
    specs = {one.name: one.spec for one in planned}
    images = {one.name: sets.get(one.arm.set_name) for one in planned}

    def seconds_of_each(together: int) -> tuple[float, ...]:
        how = replace(execution(recipe), workers=together)
        scratch = folder / f"timed-{together}"
        paces, _ = time_students(teacher, specs, images, scratch, seconds, execution=how, pictures=pictures)
        pairs = zip(planned, paces, strict=True)
        return tuple(pace.start + steps_of(one) * pace.step for one, pace in pairs)

    alone = seconds_of_each(1)
    busy = seconds_of_each(workers) if workers > 1 else alone
    counts = [training_counts(trained_as(one), steps_of(one)) for one in planned]
    students = [untrained(one, teacher) for one in planned]
    pairs = list(zip(students, counts, strict=True))
    labels = [one for made in pictures.values() for one in (made.manifest.passes or {}).values()]
    passes, of_teacher = add_counts([*labels, *counts]), count_multiply_adds(teacher)
    return Part(
        stage="students",
        serial=serial,
        alone=alone,
        busy=busy,
        passes=passes,
        multiply_adds=of_teacher * passes.teacher
        + sum(
            count_multiply_adds(student) * (one.student_forward + BACKWARD * one.student_backward)
            for student, one in pairs
        ),
        memory=max(_memory(recipe, *pair, images) for pair in zip(planned, students, strict=True)),
        disk=sum(stored_bytes(one.module.state_dict()) for one in students)
        + sum(shard.stat().st_size for made in pictures.values() for shard in made.folder.glob("shard-*")),
    )


def steps_of(one: Trainee) -> int:
    """Return the training steps of a student."""
    return one.spec.steps(None if one.arm.spec is None else one.arm.spec.count)


def untrained(one: Trainee, teacher: Classifier) -> Classifier:
    """Return a student with its first weights, frozen."""
    student = fresh_student(describe_student(one.spec.student, teacher), teacher, one.spec.seed)
    student.to(teacher.device).freeze().rewrite = teacher.rewrite
    return student


def _memory(recipe: Recipe, one: Trainee, student: Classifier, sets: Mapping[str, TransferSet | None]) -> int:
    """Return the bytes that a worker needs to train a student."""
    config, like, in_all = one.spec.distill, sets[one.name], 0
    if like is not None and one.arm.spec is not None:
        in_all = like.image_bytes * one.arm.spec.count // len(like)
    if config.images == "auto":
        config = replace(config, images=reading(in_all, available_memory()))
    threads = execution(recipe).threads_of_each(len(sets))
    return student_need(student, config, threads, in_all).memory
