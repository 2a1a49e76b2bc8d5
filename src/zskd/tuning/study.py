"""A search for settings: rounds of trials, which are cells as those of experiments."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zskd.config.checks import check_range
from zskd.config.engines import open_engine
from zskd.config.identity import identity, to_values
from zskd.config.loading import to_yaml
from zskd.config.recipe import Recipe
from zskd.core.artefact import JsonObject
from zskd.core.device import processor, use_threads
from zskd.core.errors import ZskdError
from zskd.core.files import check_free, folder_lock, write_text
from zskd.core.progress import Progress, readable_seconds
from zskd.core.versions import source_commit, versions
from zskd.experiment.conductor import Conductor
from zskd.experiment.layout import CellPaths, place_cells
from zskd.experiment.plan import Cell
from zskd.experiment.record import LEDGER
from zskd.teacher.sources import Sources, make_teacher, open_sources, with_code
from zskd.tuning.journal import FORMAT, STUDY, Common, Journal, Trial, Value, note_search
from zskd.tuning.proposals import Proposer, Sampler
from zskd.tuning.space import Space, check_space, nested
from zskd.tuning.trial import Measured, run_trial, trial_cell

BEST = "best.yaml"
_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE)
_OF_MACHINE = [os.strerror(code) for code in _CODES]
"""Words of errors that no setting causes: of the disk, and of too many open files. A lack of memory is not
among them: settings can cause it, and a search would never get past them."""
RecipeOf = Callable[[dict[str, Any]], Recipe]


@dataclass(frozen=True)
class Found:
    """What a search has found."""

    trials: list[Trial]
    """In the order of their numbers."""
    best: Trial
    """The first one with the largest value."""
    recipe: Path
    """File of its recipe, for `zskd run`."""


def tune(
    recipe_of: RecipeOf,
    space: Space,
    folder: Path,
    *,
    trials: int,
    sampler: Sampler = "tpe",
    together: int = 4,
    value: Value = "agreement",
    results: Path = Path("results"),
    sources: Sources | None = None,
    progress: Progress | None = None,
) -> Found:
    """Search for settings, or continue a search.

    Each trial trains a student as a cell of an experiment does, on the recipe's engine. No test image is
    read: students are measured on the validation images, which are held out of the training set.

    Args:
        recipe_of: returns the recipe with some nested settings: `lambda more: load_recipe("digits", more)`.
        space: what is searched.
        folder: of this search alone.
        trials: how many, those of an interrupted search included; of a grid no more than its points.
        sampler: name of one of Optuna's.
        together: trials of a round, which are proposed before any of them has a value, whatever the number of
            workers.
        value: what is maximised.
        results: folder of the ledger, which gets a line at the end.
        sources: data and teacher, where they are open already, without test images.
        progress: receives log lines and steps.

    Raises:
        ZskdError: recipe or space do not fit a search, the folder belongs to another one, or no trial
            succeeds.
    """
    base = recipe_of({})
    _check(base, trials, together)
    space = check_space(space, recipe_of)
    proposer = Proposer(space, sampler, base.seed)
    progress = progress or Progress()
    if proposer.points is not None and proposer.points < trials:
        progress.log(f"the grid has {proposer.points:,} points, so that there are no more trials")
        trials = proposer.points
    sources = sources or open_sources(base, test=False)
    if sources.data is None or not len(sources.data.validation):
        raise ZskdError("a search needs validation images: give --data.name, and --data.validation above 0")
    choices = {key: one.to_json().get("choices") for key, one in space.items()}
    common = Common(
        format=FORMAT,
        recipe=identity(base),
        sources=with_code(sources, [to_values(base), choices]).to_json(),
        space={key: one.to_json() for key, one in space.items()},
        sampler=sampler,
        together=together,
        value=value,
    )
    with folder_lock(folder):
        if not (folder / STUDY).exists():
            check_free(folder, [BEST], "search")
        journal = Journal(folder, common)
        search = _Search(recipe_of, journal, sources, folder, value, trials, progress)
        for first in range(0, trials, together):
            proposer.tell(search.round(first, proposer.ask(min(together, trials - first))))
        found = search.found()
        recipe = recipe_of(nested(found.best.settings))
        # trials are trained with so many threads; so is the student of the run
        recipe = replace(recipe, name=f"{base.name}-tuned", threads=recipe.threads or 1)
        write_text(found.recipe, to_yaml(recipe))
        note_search(results / LEDGER, base, common, found.trials)
    return found


def _check(recipe: Recipe, trials: int, together: int) -> None:
    """Refuse what cannot be the same for all trials."""
    for option, number in (("--trials", trials), ("--together", together)):
        check_range(option, number, 1)
    if recipe.budget is not None or recipe.passes is not None:
        raise ZskdError(
            "a search has no --budget and no --passes: give --distill.steps, equal for all trials"
        )
    if recipe.students or recipe.picture_folders:
        raise ZskdError("each trial trains one --student, without --images and --few: use zskd run for them")


class _Search:
    """The rounds of a search, in a folder that this process has locked."""

    def __init__(
        self,
        recipe_of: RecipeOf,
        journal: Journal,
        sources: Sources,
        folder: Path,
        value: Value,
        trials: int,
        progress: Progress,
    ) -> None:
        self._recipe_of, self._journal, self._sources = recipe_of, journal, sources
        self._folder, self._value, self._progress = folder, value, progress
        self._trials, self._before = trials, len(journal.trials)
        self._began: float | None = None
        """When the teacher was there, in this process."""

    def round(self, first: int, proposals: Sequence[JsonObject]) -> list[float | None]:
        """Run the trials of a round that have no line yet; return the values of all of them.

        Raises:
            ZskdError: the lines of the round have other settings, no trial has succeeded, or one has failed
                because of the machine.
        """
        known, settings = self._journal.trials, dict(enumerate(proposals, start=first))
        for number, own in settings.items():
            self._journal.check(number, own)
        if settings.keys() - known.keys():
            self._run(settings)
        if not any(trial.measured for trial in known.values()):
            raise ZskdError(
                f"no trial of the first {len(known)} has succeeded ({known[0].error}): correct it and "
                f"delete {self._folder}"
            )
        return [known[number].value for number in settings]

    def _run(self, settings: Mapping[int, JsonObject]) -> None:
        """Run the trials of a round that have no line; a student that was made already is not made again."""
        placed, known = self._place(settings), self._journal.trials
        first_with = {trial.key: number for number, trial in sorted(known.items(), reverse=True)}
        numbers = {paths.cell.name: number for number, paths in placed.items()}
        todo, repeated = list[CellPaths](), list[CellPaths]()
        for number, paths in placed.items():
            if number not in known:
                (todo if first_with.setdefault(paths.key, number) == number else repeated).append(paths)

        def done(paths: CellPaths, measured: Measured, _: str) -> None:
            number = numbers[paths.cell.name]
            self._add(number, settings[number], key=paths.key, measured=measured)

        if todo:
            self._train(todo, done)
        for paths in todo:
            if paths.log.is_file():
                number, why = numbers[paths.cell.name], paths.log.read_text("utf-8").splitlines()[-1]
                why = why.removeprefix("ZskdError: ")
                if any(words in why for words in _OF_MACHINE):
                    raise ZskdError(
                        f"trial {number} failed because of the machine ({why}): correct that and run the "
                        "same command again, which goes on"
                    )
                self._add(number, settings[number], key=paths.key, error=why)
        for paths in repeated:
            number, like = numbers[paths.cell.name], self._journal.trials[first_with[paths.key]]
            self._add(number, settings[number], like.key, like.measured, like.error, repeats=like.number)

    def _train(self, todo: Sequence[CellPaths], done: Callable[[CellPaths, Measured, str], None]) -> None:
        """Make the teacher, the sets and the students of some trials."""
        recipe = todo[0].cell.recipe
        with use_threads(recipe.threads or 1):
            make_teacher(recipe, self._sources, todo[0].teacher, self._progress)
        self._began = self._began or time.monotonic()
        Conductor(
            recipe.name,
            list(todo),
            self._sources,
            self._folder,
            self._folder / LEDGER,
            run_trial,
            done,
            workers=recipe.workers,
            engine=open_engine(recipe.engine),
            command=lambda cell: cell.name,
            progress=self._progress,
        ).run()

    def _place(self, settings: Mapping[int, JsonObject]) -> dict[int, CellPaths]:
        """Return the cells of a round, also those that are done: their sets may be one.

        Raises:
            ZskdError: the trials have different teachers.
        """
        cells = dict[int, Cell]()
        for number, own in settings.items():
            try:
                cell = trial_cell(number, self._recipe_of(nested(own)))
                if cell.arm.images == "made" and self._sources.data is not None:
                    cell.spec(self._sources.data.train_size)
                cells[number] = cell
            except ZskdError as error:  # each setting alone is right
                if number not in self._journal.trials:
                    self._add(number, own, error=str(error))
        if not cells:
            return {}
        name = self._folder.name
        placed = place_cells(name, list(cells.values()), self._sources, self._folder, self._folder)
        if len({paths.teacher for paths in placed}) > 1:
            raise ZskdError("the trials have different teachers: leave the preset out of the search")
        return dict(zip(cells, placed, strict=True))

    def _add(
        self,
        number: int,
        settings: JsonObject,
        key: str | None = None,
        measured: Measured | None = None,
        error: str | None = None,
        repeats: int | None = None,
    ) -> None:
        """Write the line of a trial, and log how far the search is."""
        trial = Trial(
            number=number,
            settings=settings,
            value=None if measured is None else getattr(measured, self._value),
            measured=measured,
            error=error,
            key=key,
            repeats=repeats,
            versions=versions() | {"optuna": version("optuna")},
            processor=processor(),
            commit=source_commit(),
        )
        self._journal.add(trial)
        told = f"failed: {error}" if trial.value is None else f"{self._value} {trial.value:.2f} %"
        done, best = len(self._journal.trials), _best(self._journal.trials.values())
        beside = f"; the best is {best.value:.2f} % of trial {best.number}" if best else ""
        left = ""
        if self._began is not None and done < self._trials:
            each = (time.monotonic() - self._began) / (done - self._before)
            left = f", about {readable_seconds(each * (self._trials - done))} left"
        self._progress.log(f"trial {number}: {told}{beside}; {done} of {self._trials} done{left}")

    def found(self) -> Found:
        """Return what was found when all rounds are over, in all trials: there may have been more before."""
        trials = [self._journal.trials[number] for number in sorted(self._journal.trials)]
        best = _best(trials)
        assert best is not None, "a search without any success ends in its first round"
        return Found(trials, best, self._folder / BEST)


def _best(trials: Iterable[Trial]) -> Trial | None:
    known = [(trial.value, -trial.number, trial) for trial in trials if trial.value is not None]
    return max(known, key=lambda one: one[:2])[2] if known else None
