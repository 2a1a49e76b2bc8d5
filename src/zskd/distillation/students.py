"""Students of one teacher, one for each arm, trained in parallel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Literal

import torch

from zskd.core.device import use_threads
from zskd.core.engines.base import Need
from zskd.core.memory import is_large
from zskd.core.progress import Progress, Within, WorkerProgress
from zskd.core.schedule import seconds_until_done
from zskd.core.tensorboard import tracked
from zskd.core.timing import ENDLESS, Enough, Pace, Stopwatch
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.distillation.build import build_student
from zskd.distillation.distill import choose_reading
from zskd.distillation.execution import Execution
from zskd.distillation.room import fit_students, student_need
from zskd.distillation.spec import StudentSpec
from zskd.models.checkpoint import CARD
from zskd.models.classifier import Classifier
from zskd.training.state import steps_done
from zskd.transfer_set.dataset import TransferSet

_LONGEST = 60
"""Characters of the names of students that are trained at the same time."""
_TIMES_AS_LONG, _FEWEST = 10, 100
"""How many times as long as its steps are timed a training probably takes, and its least number of steps: the
work of a start from the teacher depends on them."""


def make_students(
    teacher: Classifier,
    specs: Mapping[str, StudentSpec],
    sets: Mapping[str, TransferSet | None],
    folder: Path,
    *,
    execution: Execution | None = None,
    pictures: Mapping[str, TransferSet] | None = None,
    progress: Progress | None = None,
) -> dict[str, Classifier]:
    """Train one student for each arm, each in a folder of its own, and return them by the arms' names.

    Args:
        teacher: frozen.
        specs: of the students, by the names of the arms.
        sets: transfer sets of the teacher by the same names; None where a generator makes all images.
        folder: of all students; finished ones in it are not trained again.
        execution: engine, threads and workers; None: all students share the cores of this machine.
        pictures: of the user's, as for `distill`.
        progress: reports every step.

    Raises:
        ZskdError: as for `build_student`, or a worker process was killed several times.
    """
    execution, progress = execution or Execution(), progress or Progress()
    if any(spec.distill.follows_student for spec in specs.values()):
        execution = replace(execution, helpers=False)
    names = list(specs)
    missing = [number for number, name in enumerate(names) if not (folder / name / CARD).is_file()]
    workers = trained_together(teacher, [specs[names[number]] for number in missing], execution)
    if missing and (workers > 1 or not execution.engine.here):
        work = _work(teacher, specs, sets, pictures, folder, execution, workers, progress)
        steps = sum(specs[names[number]].steps(_size(sets[names[number]])) for number in missing)
        title = f"students {', '.join(names[number] for number in missing)}"
        done = steps_done(folder / names[number] for number in missing)
        with progress.task(shorten(title, _LONGEST, placeholder=" …"), steps, "steps", done) as task:
            need = _need(work, missing)
            for _ in execution.engine.each_done(
                _make_one, work, missing, workers=workers, need=need, on_progress=task.advance
            ):
                pass
    helper = execution.has_room_for_helper(len(names))
    threads, students = execution.threads_of_each(len(names)), {}
    for number, (name, spec) in enumerate(specs.items(), start=1):
        several = f"student {number} of {len(specs)}, {name}" if len(specs) > 1 else f"student {name}"
        told = Within(several, progress)
        with (
            use_threads(threads, chosen=execution.threads > 0),
            tracked(told, execution.tensorboard, f"students/{name}") as tracking,
        ):
            students[name] = build_student(
                teacher,
                spec,
                sets[name],
                folder / name,
                helper=helper,
                pictures=pictures,
                control=True,
                progress=tracking,
            )
    return students


def trained_together(teacher: Classifier, specs: Sequence[StudentSpec], execution: Execution) -> int:
    """Return how many of some students are trained at the same time: as many as the memory has room for.

    Args:
        teacher: as for `make_students`.
        specs: of the students.
        execution: as for `make_students`.
    """
    workers = execution.side_by_side(teacher, len(specs))
    if not execution.engine.here or workers <= 1 or not is_large(teacher.spec.shape):
        return workers
    different = {spec.student: spec for spec in specs}
    return min(fit_students(_untrained(spec, teacher), spec.distill, workers) for spec in different.values())


def _untrained(spec: StudentSpec, teacher: Classifier) -> Classifier:
    return fresh_student(describe_student(spec.student, teacher), teacher, spec.seed)


def time_students(
    teacher: Classifier,
    specs: Mapping[str, StudentSpec],
    sets: Mapping[str, TransferSet | None],
    folder: Path,
    seconds: float,
    *,
    execution: Execution,
    pictures: Mapping[str, TransferSet] | None = None,
) -> tuple[list[Pace], float]:
    """Train each student for some seconds, as `make_students` would, and return how fast it was.

    Args:
        teacher: frozen.
        specs: as for `make_students`; their numbers of steps are ignored.
        sets: as for `make_students`.
        folder: for temporary files of the trainings.
        seconds: that the steps of each student are timed for.
        execution: as for `make_students`; nothing is written for TensorBoard.
        pictures: of the user's, as for `distill`.

    Returns:
        The pace of each student, and the seconds that the workers took to start and to end.
    """
    workers = trained_together(teacher, list(specs.values()), execution)
    if workers == 1:  # this process trains now and later, and its first optimiser loads a good part of torch
        torch.optim.Adam([torch.zeros(1)])
    started = time.perf_counter()
    execution = replace(execution, tensorboard=None)
    work = _work(teacher, specs, sets, pictures, folder, execution, workers, Progress())
    numbers = range(len(specs))
    done = execution.engine.each_done(
        _time_one,
        (work, seconds),
        numbers,
        workers=workers,
        need=_need(work, numbers),
        on_progress=lambda _: None,
    )
    timed = dict(done)
    busy = training_seconds([Pace(timed[number][1], 0.0) for number in numbers], 0, workers)
    overhead = max(0.0, time.perf_counter() - started - busy)
    return [timed[number][0] for number in numbers], overhead


def training_seconds(paces: Sequence[Pace], steps: float, workers: int) -> float:
    """Return the seconds until the last of some students is trained.

    A free worker takes the next student, in their order.

    Args:
        paces: one for each student.
        steps: of each student.
        workers: students that are trained at the same time.
    """
    return seconds_until_done((pace.start + steps * pace.step for pace in paces), workers)


@dataclass(frozen=True)
class _Work:
    """What all workers need."""

    teacher: Classifier
    names: list[str]
    """Of the arms."""
    specs: list[StudentSpec]
    sets: list[Path | None]
    pictures: dict[str, Path]
    folder: Path
    """Of all students."""
    execution: Execution
    threads: int
    """Of each student: set, or its share of the cores of the machine that all are started from."""
    helper: bool
    """Whether each student has a helper process."""


def _work(
    teacher: Classifier,
    specs: Mapping[str, StudentSpec],
    sets: Mapping[str, TransferSet | None],
    pictures: Mapping[str, TransferSet] | None,
    folder: Path,
    execution: Execution,
    workers: int,
    progress: Progress,
) -> _Work:
    """Return what all workers need; where they read their images from is chosen here, once for all."""
    chosen = list(specs.values())
    found = [(spec, one) for spec, one in zip(chosen, map(sets.get, specs), strict=True) if one is not None]
    if found:  # the sets have the same size
        spec, one = found[0]
        readers = workers if execution.engine.here else 1  # of a machine
        reading = choose_reading(one, spec.distill, progress, readers=readers).images
        chosen = [replace(spec, distill=replace(spec.distill, images=reading)) for spec in chosen]
    folders = [None if one is None else one.folder for one in map(sets.get, specs)]
    helper = execution.has_room_for_helper(len(specs), workers)
    threads = execution.threads_of_each(len(specs))
    shown = {kind: one.folder for kind, one in (pictures or {}).items()}
    return _Work(teacher, list(specs), chosen, folders, shown, folder, execution, threads, helper)


def _need(work: _Work, numbers: Iterable[int]) -> Need:
    """Return what each of some trainings needs at most; it is measured where the engine asks for it."""
    if work.execution.engine.here:
        return Need()
    needs = []
    for number in numbers:
        spec, folder = work.specs[number], work.sets[number]
        images = 0 if folder is None else TransferSet(folder).image_bytes
        student = _untrained(spec, work.teacher)
        needs.append(student_need(student, spec.distill, work.threads, images))
    return max(needs, key=lambda need: need.memory)


def _size(transfer_set: TransferSet | None) -> int | None:
    return None if transfer_set is None else len(transfer_set)


def _make_one(work: _Work, number: int, on_progress: Callable[[int], None]) -> None:
    """Train one student in a worker."""
    name = f"students/{work.names[number]}"
    with tracked(WorkerProgress(on_progress), work.execution.tensorboard, name) as progress:
        _train_one(work, number, progress)


def _time_one(
    shared: tuple[_Work, float], number: int, on_progress: Callable[[int], None]
) -> tuple[Pace, float]:
    """Train one student in a worker for some seconds; return its pace and the seconds taken."""
    work, seconds = shared
    started = time.perf_counter()
    begins = work.specs[number].distill.start
    pace = _timed(work, number, seconds, start="random", steps=ENDLESS)
    if begins != "random":
        steps = max(_FEWEST, round(_TIMES_AS_LONG * seconds / pace.step))
        pace = replace(pace, start=_timed(work, number, 0.0, start=begins, steps=steps).start)
    return pace, time.perf_counter() - started


def _timed(
    work: _Work, number: int, seconds: float, *, start: Literal["teacher", "random"], steps: int
) -> Pace:
    """Return the pace of a training with this start and so many steps, which is ended after some seconds."""
    specs, watch = list(work.specs), Stopwatch(seconds)
    distill = replace(specs[number].distill, start=start, steps=steps, epochs=None)
    specs[number] = replace(specs[number], distill=distill)
    with suppress(Enough):
        _train_one(replace(work, specs=specs, folder=work.folder / f"from-{start}"), number, watch)
    return watch.pace()


def _train_one(work: _Work, number: int, progress: Progress) -> None:
    set_folder, folder = work.sets[number], work.folder / work.names[number]
    images = None if set_folder is None else TransferSet(set_folder)
    pictures = {kind: TransferSet(one) for kind, one in work.pictures.items()}
    with use_threads(work.threads, chosen=work.execution.threads > 0):
        build_student(
            work.teacher,
            work.specs[number],
            images,
            folder,
            helper=work.helper,
            pictures=pictures,
            control=True,
            progress=progress,
        )
