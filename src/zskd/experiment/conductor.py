"""The cells of an experiment that are left, run seed by seed: sets, then students, several in parallel.

Seeds come one after the other, so that an experiment that is stopped early lacks seeds and not arms. Within a
seed the expensive sets come last. A cell that fails leaves a log and stops no other cell.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

from zskd.core.device import use_threads
from zskd.core.engines.base import Engine, Need, OnProgress
from zskd.core.errors import ZskdError, escaped, one_line
from zskd.core.files import remove_file, write_json, write_text
from zskd.core.parallel import WorkersDied
from zskd.core.progress import Progress, WorkerProgress, readable_seconds
from zskd.core.tensorboard import tracked
from zskd.core.timing import Clock
from zskd.data.datasets import Dataset
from zskd.experiment.cell import STUDENT, Job
from zskd.experiment.cost import COSTS, estimate, read_known, seconds_left
from zskd.experiment.layout import CellPaths
from zskd.experiment.plan import Cell
from zskd.models.checkpoint import CARD
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.real import build_real_set
from zskd.synthesis.room import possible_workers
from zskd.teacher.sources import Sources, load_teacher, make_teacher, open_sources
from zskd.training.state import STATE, steps_done

Result = TypeVar("Result")
_ROUND_SECONDS = 300.0
"""Sets that together take so long are made before their students are trained."""


class Conductor(Generic[Result]):
    """Runs the remaining cells of an experiment, in a folder that this process has locked.

    Args:
        name: of the experiment.
        todo: cells to run; those that are done are taken out of this list.
        sources: their data and teacher.
        out: folder of teachers, sets and students.
        ledger: file that lists each use of the test set.
        work: a function of a module, which runs one cell in a worker and returns its result.
        on_done: receives each cell that is done, its result, and how much is left, in words.
        workers: as for `conduct`.
        engine: as for `conduct`.
        command: as for `conduct`.
        progress: as for `conduct`.
    """

    def __init__(
        self,
        name: str,
        todo: list[CellPaths],
        sources: Sources,
        out: Path,
        ledger: Path,
        work: Callable[[Job, Progress], Result],
        on_done: Callable[[CellPaths, Result, str], None],
        *,
        workers: int,
        engine: Engine,
        command: Callable[[Cell], str],
        progress: Progress,
    ) -> None:
        assert sources.data is not None
        self._name, self._todo, self._ledger = name, todo, ledger
        self._work, self._on_done = work, on_done
        self._data: Dataset = sources.data
        self._command, self._progress = command, progress
        self._workers = possible_workers(sources.model, workers, engine)
        self._engine, self._gpus = engine, int(sources.model.device.type == "cuda")
        for started in out.glob("cells/*/started"):  # of cells that were interrupted, of other commands, too
            remove_file(started)
        for paths in todo:
            remove_file(paths.log)
        known = read_known(out)
        costs = estimate(todo, sources.model, known)
        self._costs = {paths.cell.name: cost for paths, cost in zip(todo, costs, strict=True)}
        write_json(out / COSTS, known)

    def run(self) -> None:
        """Run all cells that can be run."""
        expected = readable_seconds(self._seconds(self._todo))
        self._progress.log(f"{len(self._todo)} cells to run, about {expected} with {self._workers} workers")
        self._train_teachers()
        while cells := self._next_round():
            self._make_sets(cells)
            self._make_students([paths for paths in cells if paths in self._todo])

    def _train_teachers(self) -> None:
        first = {paths.teacher: paths for paths in self._todo}
        missing = [paths for paths in first.values() if not (paths.teacher / CARD).is_file()]
        for teacher in first.keys() - {paths.teacher for paths in missing}:
            remove_file(teacher / STATE)  # of a training killed after its last step
        steps = sum(p.cell.recipe.teacher.total_steps(len(self._data.train)) for p in missing)
        if not missing:
            return
        before = steps_done(paths.teacher for paths in missing)
        with self._progress.task(f"{len(missing)} teachers", steps, "steps", before) as task:
            done = self._engine.each_done(
                _make_teacher,
                missing,
                range(len(missing)),
                workers=min(self._workers, len(missing)),
                need=self._need(missing),
                on_progress=task.advance,
            )
            for number, log in done:
                if log:
                    self._fail([p for p in self._todo if p.teacher == missing[number].teacher], log)

    def _next_round(self) -> list[CellPaths]:
        """Return cells of the lowest seed whose sets are made next: many cheap sets, or one expensive set."""
        if not self._todo:
            return []
        seed = self._todo[0].cell.recipe.seed
        by_set: dict[Path | None, list[CellPaths]] = {}
        for paths in self._todo:
            if paths.cell.recipe.seed == seed:
                by_set.setdefault(paths.set_folder, []).append(paths)
        chosen: list[CellPaths] = []
        seconds = 0.0
        for group in sorted(by_set.values(), key=lambda group: self._costs[group[0].cell.name].images):
            seconds += self._costs[group[0].cell.name].images
            if chosen and seconds > _ROUND_SECONDS:
                break
            chosen += group
        return chosen

    def _make_sets(self, cells: list[CellPaths]) -> None:
        for folder in dict.fromkeys(paths.set_folder for paths in cells):
            users = [paths for paths in cells if paths.set_folder == folder]
            try:
                if folder is not None:
                    self._make_set(users[0], folder)
                for paths in users:  # what is left takes no more time for it
                    self._costs[paths.cell.name] = replace(self._costs[paths.cell.name], images=0.0)
            except Exception as error:
                self._fail(users, _log(error))

    def _make_set(self, paths: CellPaths, folder: Path) -> None:
        images, recipe = paths.images, paths.cell.recipe
        assert images is not None
        teacher = load_teacher(recipe, paths.teacher)
        with _set_clock(folder)("set"):
            if images.spec is None:
                build_real_set(
                    teacher,
                    self._data.train,
                    folder,
                    count=images.count,
                    seed=images.seed,
                    leave_out=images.leave_out,
                )
            else:
                build_transfer_set(
                    teacher,
                    images.spec,
                    folder,
                    workers=self._workers,
                    engine=self._engine,
                    progress=self._progress,
                )

    def _make_students(self, cells: list[CellPaths]) -> None:
        jobs = [self._job(paths) for paths in cells]
        if not jobs:
            return
        steps = sum(paths.cell.student_steps(paths.count) for paths in cells)
        before = steps_done(job.folder / STUDENT for job in jobs)
        with self._progress.task(f"{len(jobs)} cells", steps, "steps", before) as task:
            for number, (result, log) in self._each_job(jobs, self._need(cells), task.advance):
                if result is None:
                    self._fail([cells[number]], log)
                else:
                    self._report(cells[number], result)

    def _each_job(
        self, jobs: list[Job], need: Need, on_progress: OnProgress
    ) -> Iterator[tuple[int, tuple[Result | None, str]]]:
        """Run jobs and yield number and outcome of each, also of one whose worker is killed every time."""

        def done(numbers: Sequence[int], workers: int) -> Iterator[tuple[int, tuple[Result | None, str]]]:
            shared = (self._work, jobs)
            return self._engine.each_done(
                _do_job, shared, numbers, workers=workers, need=need, on_progress=on_progress
            )

        left = list(range(len(jobs)))
        try:
            for number, outcome in done(tuple(left), min(self._workers, len(jobs))):
                left.remove(number)
                yield number, outcome
        except WorkersDied:
            self._engine.start(self._workers)  # raises this, too, where no worker can live
            self._progress.log(f"workers were killed: what is left runs one by one, {len(left)} in all")
            for number in left:
                try:
                    yield from done([number], 2)  # the only task, in a process that is not this one
                except WorkersDied as error:
                    yield number, (None, _log(error))

    def _need(self, cells: list[CellPaths]) -> Need:
        return Need(threads=max(paths.cell.recipe.threads or 1 for paths in cells), gpus=self._gpus)

    def _job(self, paths: CellPaths) -> Job:
        share, spec = 0.0, paths.images.spec if paths.images else None
        if paths.images is not None and paths.set_folder is not None:
            share = _set_clock(paths.set_folder).seconds["set"] * paths.count / paths.images.count
        return Job(
            cell=paths.cell,
            key=paths.key,
            experiment=self._name,
            folder=paths.folder,
            teacher=paths.teacher,
            images=paths.set_folder,
            count=paths.count,
            nested=spec is not None and spec.nests and spec.own_method.by_objective,
            set_seconds=share,
            workers=self._workers,
            record=paths.record,
            ledger=self._ledger,
            command=self._command(paths.cell),
        )

    def _fail(self, layout: list[CellPaths], log: str) -> None:
        for paths in layout:
            write_text(paths.log, log)
            self._todo.remove(paths)
            self._progress.log(f"{paths.cell.name} failed: {log.splitlines()[-1]} (see {paths.log})")

    def _report(self, paths: CellPaths, result: Result) -> None:
        self._todo.remove(paths)
        left = readable_seconds(self._seconds(self._todo))
        self._on_done(paths, result, f"{len(self._todo)} cells left, about {left}")

    def _seconds(self, layout: list[CellPaths]) -> float:
        return seconds_left(layout, self._costs, self._workers)


def _set_clock(folder: Path) -> Clock:
    return Clock(folder.with_name(f"{folder.name}.seconds.json"))


def _log(error: Exception) -> str:
    """Return the log of a failure; its last line is the error. The user's own code may raise any text."""
    told = isinstance(error, ZskdError)
    trace, kind = ("", ZskdError) if told else (traceback.format_exc(), type(error))
    log = f"{trace}{kind.__name__}: {one_line(error)}\n"
    return "\n".join(map(escaped, log.split("\n")))


def _make_teacher(layout: list[CellPaths], number: int, on_progress: Callable[[int], None]) -> str:
    """Train a teacher, in a worker. Return the log of its failure; empty where it succeeds."""
    paths, recipe = layout[number], layout[number].cell.recipe
    board = tracked(WorkerProgress(on_progress), recipe.tensorboard, paths.teacher.name)
    try:
        with use_threads(recipe.threads or 1), board as tracker:
            make_teacher(recipe, open_sources(recipe), paths.teacher, tracker)
    except Exception as error:
        return _log(error)
    return ""


def _do_job(
    shared: tuple[Callable[[Job, Progress], Result], list[Job]],
    number: int,
    on_progress: Callable[[int], None],
) -> tuple[Result | None, str]:
    """Run one cell, in a worker. Return its result, or None and the log of its failure."""
    work, jobs = shared
    job = jobs[number]
    try:
        write_text(job.folder / "started", "")
        return work(job, WorkerProgress(on_progress)), ""
    except Exception as error:
        return None, _log(error)
