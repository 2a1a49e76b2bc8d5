"""The students of a recipe, one for each arm, trained side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from zskd.config.distillation import DistillConfig
from zskd.config.identity import to_values
from zskd.config.recipe import Recipe
from zskd.core.device import usable_cores, use_threads
from zskd.core.files import make_folder, remove_file
from zskd.core.parallel import each_done
from zskd.core.progress import Progress, WorkerProgress
from zskd.core.tensorboard import tracked
from zskd.core.timing import Enough, Pace, Stopwatch
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.distillation.distill import choose_reading, distill
from zskd.distillation.initialisation.from_teacher import initialise_from_teacher
from zskd.models.checkpoint import Card, load_checkpoint, save_checkpoint
from zskd.models.classifier import Classifier
from zskd.transfer_set.dataset import TransferSet

_ENDLESS = 10**9
"""Steps of a training that is stopped before it has taken them."""


def make_students(
    recipe: Recipe,
    teacher: Classifier,
    sets: Mapping[str, TransferSet | None],
    folder: Path,
    progress: Progress,
) -> dict[str, Classifier]:
    """Return one student for each arm, by the arms' names, each in a folder of its own.

    Args:
        recipe: student, schedule, seed, workers and threads.
        teacher: frozen.
        sets: transfer sets of the teacher by the names of the arms; None where a generator makes all images.
        folder: of all students; those that are there are kept.
        progress: told of every step.
    """
    names = list(sets)
    missing = [i for i, name in enumerate(names) if not (folder / name / "card.json").is_file()]
    workers = student_workers(recipe, teacher, len(missing))
    if workers > 1:
        shared = _shared(recipe, teacher, sets, folder, workers, progress)
        sizes = [None if one is None else len(one) for one in sets.values()]
        steps = sum(student_steps(recipe.distill, sizes[i]) for i in missing)
        with progress.task(f"{len(missing)} students", steps, "steps") as task:
            for _ in each_done(_make_one, shared, missing, workers=workers, tell=task.advance):
                pass
    helper = room_for_helper(recipe, len(names))
    with use_threads(threads_of_each(recipe, len(names))):
        students = {}
        for name, images in sets.items():
            with tracked(progress, recipe.tensorboard, f"students/{name}") as told:
                students[name] = make_student(recipe, teacher, images, folder / name, told, helper=helper)
        return students


def time_students(
    recipe: Recipe, teacher: Classifier, sets: Mapping[str, TransferSet | None], folder: Path, seconds: float
) -> tuple[list[Pace], float]:
    """Train each student for so many seconds, as `make_students` would.

    Args:
        recipe: as for `make_students`.
        teacher: frozen.
        sets: as for `make_students`.
        folder: for what the trainings save; nothing in it is of use later.
        seconds: that the steps of each are timed for.

    Returns:
        How fast each went, and the seconds that the workers took to start and to end.
    """
    workers = student_workers(recipe, teacher, len(sets))
    if workers == 1:  # this process trains now and later, and its first optimiser loads a good part of torch
        torch.optim.Adam([torch.zeros(1)])
    started = time.perf_counter()
    endless = replace(recipe.distill, steps=_ENDLESS, epochs=None)
    recipe = replace(recipe, tensorboard=None, distill=endless)
    shared = _shared(recipe, teacher, sets, folder, workers, Progress())
    numbers = range(len(sets))
    timed = dict(each_done(_time_one, (shared, seconds), numbers, workers=workers, tell=lambda _: None))
    busy = training_seconds([Pace(timed[number][1], 0.0) for number in numbers], 0, workers)
    beside = max(0.0, time.perf_counter() - started - busy)
    return [timed[number][0] for number in numbers], beside


def training_seconds(paces: Sequence[Pace], steps: float, workers: int) -> float:
    """Return how long students of so many steps take until the last has finished.

    Each is begun, in their order, as soon as a worker is free.
    """
    free = [0.0] * workers
    for pace in paces:
        first = free.index(min(free))
        free[first] += pace.start + steps * pace.step
    return max(free)


def student_workers(recipe: Recipe, teacher: Classifier, students: int) -> int:
    """Return how many students are trained side by side, each in a process of its own if more than one is."""
    side_by_side = teacher.device.type == "cpu" and students > 1
    return min(recipe.workers or usable_cores(), students) if side_by_side else 1


def student_steps(config: DistillConfig, count: int | None) -> int:
    """Return how many steps a student takes on a set of `count` images; without a set a pass is one batch."""
    return config.total_steps(config.batch_size if count is None else count)


def generated_images(config: DistillConfig) -> int:
    """Return how many images a generator makes where there is no set."""
    batches = -(
        -student_steps(config, None) // (config.generator.student_steps if config.generator.same else 1)
    )
    return batches * config.batch_size


def threads_of_each(recipe: Recipe, students: int) -> int:
    """Return the threads that each student is trained with: as set, or half its share of the cores.

    The other half is for the helper that makes its batches ready. It does not hang on the number of
    workers, because the student's bytes hang on it.
    """
    return recipe.threads or max(1, usable_cores() // (2 * students))


def room_for_helper(recipe: Recipe, students: int = 1, workers: int = 1) -> bool:
    """Whether every student that is being trained can have a helper without cores being shared."""
    if recipe.workers == 1:
        return False
    return usable_cores() // workers >= 2 * threads_of_each(recipe, students)


def make_student(
    recipe: Recipe,
    teacher: Classifier,
    transfer_set: TransferSet | None,
    folder: Path,
    progress: Progress,
    *,
    helper: bool = False,
) -> Classifier:
    """Return the student that a recipe asks for, from `folder` if it is there already.

    `helper` is as for `distill`.
    """
    factory = recipe.student if ":" in recipe.student else None
    if (folder / "card.json").is_file():
        remove_file(folder / "training.safetensors")  # of one killed behind its last step
        student = load_checkpoint(folder, model=factory)[0].freeze().to(teacher.device)
        student.rewrite = teacher.rewrite
        return student
    config = recipe.distill
    if not config.needs_set and transfer_set is not None:  # the control of a generator learns without one
        config = replace(config, generator=replace(config.generator, share=0.0))
    architecture = describe_student(recipe.student, teacher)
    network = fresh_student(architecture, teacher, recipe.seed).module
    make_folder(folder)
    inherited = False
    if config.start == "teacher":
        assert transfer_set is not None, "settings whose student sees no set begin at random"
        begun = initialise_from_teacher(
            teacher, network, transfer_set, config.augment, seed=recipe.seed, progress=progress
        )
        network, inherited = begun.student, begun.taken_over
    student = distill(
        teacher,
        network,
        transfer_set,
        config,
        seed=recipe.seed,
        state=folder / "training.safetensors",
        helper=helper,
        progress=progress,
    )
    origin = {
        "how": "distilled",
        "teacher_sha256": teacher.fingerprint(),
        "transfer_set_sha256": transfer_set and transfer_set.fingerprint(),
        "method": transfer_set.manifest["spec"]["method"] if transfer_set else config.generator.method,
        "seed": recipe.seed,
        "inherited": inherited,
        "distill": {key: value for key, value in to_values(recipe)["distill"].items() if key != "images"},
        "threads": torch.get_num_threads(),
        "device": teacher.device.type,
    }
    save_checkpoint(folder, student, Card(architecture=architecture, origin=origin))
    remove_file(folder / "training.safetensors")
    return student


_Shared = tuple[Recipe, Classifier, list[str], list[Path | None], Path, bool]
"""Recipe, teacher, names of the arms, their sets, folder of all students, whether each has a helper."""


def _shared(
    recipe: Recipe,
    teacher: Classifier,
    sets: Mapping[str, TransferSet | None],
    folder: Path,
    workers: int,
    progress: Progress,
) -> _Shared:
    """What all workers need."""
    reading, found = recipe.distill, [one for one in sets.values() if one is not None]
    if found:  # they are of one size
        reading = choose_reading(found[0], reading, progress, readers=workers)
    helper = room_for_helper(recipe, len(sets), workers)
    folders = [None if one is None else one.folder for one in sets.values()]
    return replace(recipe, distill=reading), teacher, list(sets), folders, folder, helper


def _make_one(shared: _Shared, number: int, tell: Callable[[int], None]) -> None:
    """Make one student; the work of one worker."""
    recipe, _, names, *_ = shared
    with tracked(WorkerProgress(tell), recipe.tensorboard, f"students/{names[number]}") as progress:
        _train_one(shared, number, progress)


def _time_one(shared: tuple[_Shared, float], number: int, tell: Callable[[int], None]) -> tuple[Pace, float]:
    """Begin to make one student and return its pace and the seconds taken; the work of one worker."""
    what, seconds = shared
    started, watch = time.perf_counter(), Stopwatch(seconds)
    with suppress(Enough):
        _train_one(what, number, watch)
    return watch.pace(), time.perf_counter() - started


def _train_one(shared: _Shared, number: int, progress: Progress) -> None:
    recipe, teacher, names, sets, folder, helper = shared
    made = sets[number]
    images = None if made is None else TransferSet(made)
    with use_threads(threads_of_each(recipe, len(sets))):
        make_student(recipe, teacher, images, folder / names[number], progress, helper=helper)
