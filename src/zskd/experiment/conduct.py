"""Doing an experiment: seed by seed, teachers, then sets, then students side by side.

Seeds come one after the other, so that what time does not suffice for are seeds and not arms. Within a seed
the dear sets come last. A cell that fails leaves a log and stops no other.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zskd.core.device import usable_cores, use_threads
from zskd.core.errors import ZskdError, one_line
from zskd.core.files import folder_lock, make_folder, remove_file, write_json, write_text
from zskd.core.parallel import each_done
from zskd.core.progress import Progress, WorkerProgress, readable_seconds
from zskd.core.tensorboard import tracked
from zskd.core.timing import Clock
from zskd.data.datasets import Dataset
from zskd.experiment.cell import Job, do_cell
from zskd.experiment.cost import COSTS, Cost, estimate, read_known
from zskd.experiment.definition import Experiment
from zskd.experiment.layout import Place, State, lay_out, states
from zskd.experiment.plan import Cell
from zskd.experiment.record import Record
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.real import build_real_set
from zskd.teacher.sources import Sources, load_teacher, make_teacher, open_sources

_ROUND_SECONDS = 300.0
"""Sets of so many seconds are made before their students are trained."""


@dataclass(frozen=True)
class Outcome:
    """What became of the cells that were asked for."""

    places: list[Place]
    states: list[State]

    def count(self, state: State) -> int:
        """Return how many cells are in a state."""
        return self.states.count(state)


def conduct(
    experiment: Experiment,
    cells: Sequence[Cell],
    out: Path,
    results: Path,
    *,
    workers: int = 0,
    command: Callable[[Cell], str],
    progress: Progress | None = None,
) -> Outcome:
    """Do the cells that have no record yet.

    Args:
        experiment: the whole.
        cells: those that are wanted.
        out: folder of teachers, sets and students; whatever is whole in it is kept.
        results: folder of records and ledger.
        workers: processes; 0 for one per core.
        command: how a cell is made again, for its record.
        progress: told of everything.

    Raises:
        ZskdError: the folder is in use, or there are records of other settings.
    """
    progress, workers = progress or Progress(), workers or usable_cores()
    places, sources = lay_out(experiment, cells, out, results)
    todo = _todo(places, out)
    progress.log(f"experiment {experiment.name}: {len(places)} cells, {len(places) - len(todo)} done before")
    if todo:
        make_folder(results)  # before there is work that could not be written down
        with folder_lock(out):
            todo = _todo(places, out)  # whoever held the folder until now has done some
            _Conductor(experiment, todo, sources, out, results, workers, command, progress).run()
    return Outcome(places, states(places, out))


def _todo(places: list[Place], out: Path) -> list[Place]:
    found = zip(places, states(places, out), strict=True)
    return [place for place, state in found if state is not State.DONE]


class _Conductor:
    """The work that is left of an experiment, in a folder that this process holds."""

    def __init__(
        self,
        experiment: Experiment,
        todo: list[Place],
        sources: Sources,
        out: Path,
        results: Path,
        workers: int,
        command: Callable[[Cell], str],
        progress: Progress,
    ) -> None:
        assert sources.data is not None
        self._experiment, self._todo, self._results = experiment, todo, results
        self._data: Dataset = sources.data
        self._command, self._progress = command, progress
        on_cpu = sources.model.device.type == "cpu"  # a GPU is kept busy by one process
        self._workers = workers if on_cpu else 1
        for place in todo:
            remove_file(place.log)
            remove_file(place.started)
        known = read_known(out)
        costs = estimate(todo, sources.model, known)
        self._costs = {place.cell.name: cost for place, cost in zip(todo, costs, strict=True)}
        write_json(out / COSTS, known)

    def run(self) -> None:
        """Do everything that can be done."""
        expected = readable_seconds(self._seconds(self._todo))
        self._progress.log(f"{len(self._todo)} cells to do, {expected} or so with {self._workers} workers")
        self._train_teachers()
        while cells := self._next_round():
            self._make_sets(cells)
            self._make_students([place for place in cells if place in self._todo])

    def _train_teachers(self) -> None:
        first = {place.teacher: place for place in self._todo}
        missing = [place for place in first.values() if not (place.teacher / "card.json").is_file()]
        steps = sum(p.cell.recipe.teacher.total_steps(len(self._data.train)) for p in missing)
        if not missing:
            return
        with self._progress.task(f"{len(missing)} teachers", steps, "steps") as task:
            done = each_done(
                _make_teacher,
                missing,
                range(len(missing)),
                workers=min(self._workers, len(missing)),
                on_progress=task.advance,
            )
            for number, log in done:
                if log:
                    self._fail([p for p in self._todo if p.teacher == missing[number].teacher], log)

    def _next_round(self) -> list[Place]:
        """Return cells of the lowest seed whose sets are made next: many cheap ones, or a dear one."""
        if not self._todo:
            return []
        seed = self._todo[0].cell.recipe.seed
        by_set: dict[Path | None, list[Place]] = {}
        for place in self._todo:
            if place.cell.recipe.seed == seed:
                by_set.setdefault(place.set_folder, []).append(place)
        chosen: list[Place] = []
        seconds = 0.0
        for group in sorted(by_set.values(), key=lambda group: self._costs[group[0].cell.name].images):
            seconds += self._costs[group[0].cell.name].images
            if chosen and seconds > _ROUND_SECONDS:
                break
            chosen += group
        return chosen

    def _make_sets(self, cells: list[Place]) -> None:
        for folder in dict.fromkeys(place.set_folder for place in cells):
            users = [place for place in cells if place.set_folder == folder]
            try:
                if folder is not None:
                    self._make_set(users[0], folder)
            except Exception as error:
                self._fail(users, _log(error))

    def _make_set(self, place: Place, folder: Path) -> None:
        images, recipe = place.images, place.cell.recipe
        assert images is not None
        teacher = load_teacher(recipe, place.teacher)
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
                    teacher, images.spec, folder, workers=self._workers, progress=self._progress
                )

    def _make_students(self, cells: list[Place]) -> None:
        jobs = [self._job(place) for place in cells]
        if not jobs:
            return
        steps = sum(place.cell.student_steps(place.count) for place in cells)
        with self._progress.task(f"{len(jobs)} cells", steps, "steps") as task:
            workers = min(self._workers, len(jobs))
            for number, (record, log) in each_done(
                _do_job, jobs, range(len(jobs)), workers=workers, on_progress=task.advance
            ):
                if record is None:
                    self._fail([cells[number]], log)
                else:
                    self._tell(cells[number], record)

    def _job(self, place: Place) -> Job:
        share = 0.0
        if place.images is not None and place.set_folder is not None:
            share = _set_clock(place.set_folder).seconds["set"] * place.count / place.images.count
        return Job(
            cell=place.cell,
            key=place.key,
            experiment=self._experiment.name,
            folder=place.folder,
            teacher=place.teacher,
            images=place.set_folder,
            count=place.count,
            set_seconds=share,
            workers=self._workers,
            results=self._results,
            command=self._command(place.cell),
        )

    def _fail(self, places: list[Place], log: str) -> None:
        for place in places:
            write_text(place.log, log)
            self._todo.remove(place)
            self._progress.log(f"{place.cell.name} failed: {log.splitlines()[-1]} (see {place.log})")

    def _tell(self, place: Place, record: Record) -> None:
        self._todo.remove(place)
        left = readable_seconds(self._seconds(self._todo))
        self._progress.log(
            f"{record.cell}: {record.test_accuracy:.2f} % in {readable_seconds(record.wall_seconds)}; "
            f"{len(self._todo)} cells left, about {left}"
        )

    def _seconds(self, places: list[Place]) -> float:
        return seconds_left(places, self._costs, self._workers)


def seconds_left(places: Sequence[Place], costs: dict[str, Cost], workers: int) -> float:
    """Return how long so many processes need for some cells, each set counted once."""
    sets = {place.set_folder: costs[place.cell.name].images for place in places}
    return (sum(sets.values()) + sum(costs[place.cell.name].student for place in places)) / workers


def _set_clock(folder: Path) -> Clock:
    return Clock(folder.with_name(f"{folder.name}.seconds.json"))


def _log(error: Exception) -> str:
    """Return what is written down of a failure; the last line says what it was."""
    told = "" if isinstance(error, ZskdError) else traceback.format_exc()
    return f"{told}{type(error).__name__}: {one_line(error)}\n"


def _make_teacher(places: list[Place], number: int, on_progress: Callable[[int], None]) -> str:
    """Train a teacher; the work of one worker. Returns why it failed, or nothing."""
    place, recipe = places[number], places[number].cell.recipe
    board = tracked(WorkerProgress(on_progress), recipe.tensorboard, place.teacher.name)
    try:
        with use_threads(recipe.threads or 1), board as told:
            make_teacher(recipe, open_sources(recipe), place.teacher, told)
    except Exception as error:
        return _log(error)
    return ""


def _do_job(jobs: list[Job], number: int, on_progress: Callable[[int], None]) -> tuple[Record | None, str]:
    """Do one cell; the work of one worker. Returns its record, or why it failed."""
    job = jobs[number]
    try:
        write_text(job.folder / "started", "")
        return do_cell(job, WorkerProgress(on_progress)), ""
    except Exception as error:
        return None, _log(error)
