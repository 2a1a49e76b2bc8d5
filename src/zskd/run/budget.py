"""The budget of a recipe: how many images and how many training steps fit into its minutes.

The speed is measured once, on this machine: first a part of each set is made, which gives the number of
images; once the sets are complete, some steps of each student give the number of steps. Both are saved in a
file, and a run that was interrupted continues with them.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from zskd.config.engines import open_engine
from zskd.config.recipe import Recipe
from zskd.core.artefact import (
    Artefact,
    AtLeastOne,
    JsonObject,
    Name,
    Processor,
    Seconds,
    Versions,
    read_artefact,
    write_artefact,
)
from zskd.core.device import processor
from zskd.core.errors import ZskdError
from zskd.core.files import remove_file
from zskd.core.progress import Progress, readable_seconds
from zskd.core.timing import Pace
from zskd.core.versions import versions
from zskd.distillation.spec import StudentSpec
from zskd.distillation.students import time_students, trained_together, training_seconds
from zskd.models.classifier import Classifier
from zskd.run.arms import execution
from zskd.run.shares import FEWEST_STEPS, FOR_SETS, images_that_fit, least_count, steps_that_fit
from zskd.synthesis.build import image_seconds, open_writer, settle_spec, time_shards
from zskd.synthesis.cost import Cost
from zskd.synthesis.room import fit_workers, possible_workers
from zskd.synthesis.sizes import has_usual_shards, in_batches, in_files
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import MANIFEST, ShardEntry

BUDGET, TIMED = "budget.json", "timed"
_MARGIN = 0.05
"""Share that stays unused, in case the machine becomes slower."""
_FOR_TIMING = 0.05
"""Share for steps that are only timed."""
_LONGEST_TIMING = 60.0
"""Largest number of seconds for timing one student: some busy seconds of the machine must not decide about an
hour."""
Specs = Mapping[str, StudentSpec]
Sets = Mapping[str, TransferSet | None]


class BudgetFile(Artefact):
    """What fits into a budget, and the measured speed."""

    minutes: Annotated[float, Field(gt=0)]
    key: Name
    """Hash of everything that determines the run."""
    seconds: Seconds
    """Spent when the file was written."""
    earlier: Seconds | None = None
    """Spent before this budget, on sets of one that was refused."""
    count: AtLeastOne | None = None
    """Images in each set; absent without sets."""
    shard_size: AtLeastOne | None = None
    """Images in each file, where that is less than the default, so that all workers make images."""
    seconds_per_image: dict[Name, Seconds] | None = None
    """Of one worker, by set."""
    versions: Versions
    processor: Processor
    steps: AtLeastOne | None = None
    """Of each student; absent until measured."""
    paces: dict[Name, Pace] | None = None
    """Speed of the students, by the names of their folders."""
    beside: Seconds | None = None
    """Seconds that the workers took to start and to end."""

    def to_json(self) -> JsonObject:
        """Return the object for its JSON file; without sets `versions` and `processor` come last."""
        values = super().to_json()
        if self.count is None:
            values |= {key: values.pop(key) for key in ("versions", "processor")}
        return values


class Budget:
    """The budget of one recipe: it measures the speed, and remembers what was measured."""

    def __init__(
        self,
        recipe: Recipe,
        teacher: Classifier,
        folder: Path,
        *,
        key: str,
        spent: float = 0.0,
        progress: Progress,
    ) -> None:
        """Read what was measured before, and start the clock.

        Args:
            recipe: with a budget.
            teacher: frozen.
            folder: of the run or of the student.
            key: hash of everything that determines the run; a file with another key is not used.
            spent: seconds that were spent on the sets of all budgets in this folder.
            progress: receives log lines.

        Raises:
            ZskdError: the file is damaged.
        """
        assert recipe.budget is not None
        self._recipe, self._teacher, self._folder, self._progress = recipe, teacher, folder, progress
        self._seconds = 60 * recipe.budget
        self._found: BudgetFile | None = None
        self._started, self._earlier = time.perf_counter(), spent
        if (folder / BUDGET).is_file():
            advice = "delete it and the folder sets beside it, and both are made again"
            found = read_artefact(folder / BUDGET, BudgetFile, "what a budget allows", advice)
            if found.key == key:
                self._found, self._earlier = found, found.earlier or 0.0
                self._started -= found.seconds + spent - self._earlier
        self._minutes, self._key = recipe.budget, key
        self._sets: list[Path] = []

    def fit_sets(self, specs: Mapping[Path, SetSpec]) -> Recipe:
        """Return the recipe with the number of images of each set, and of each file in a short time.

        Args:
            specs: of the full sets, by the folders of the sets. Shards that were made for timing are kept
                there where they are part of the final sets.
        """
        self._sets = list(specs)
        found = self._found
        if found is None or found.count is None:
            self._progress.log("budget: measuring the speed of making images")
            found = self._time_sets(specs)
        recipe = replace(self._recipe, count=found.count, rate=None)
        if found.shard_size is None:
            return recipe
        return replace(recipe, synthesis=replace(recipe.synthesis, shard_size=found.shard_size))

    def _time_sets(self, specs: Mapping[Path, SetSpec]) -> BudgetFile:
        teacher, classes, time_left = self._teacher, self._teacher.classes, FOR_SETS * self._seconds
        engine = open_engine(self._recipe.engine)
        for folder in specs:
            if not (folder / MANIFEST).is_file():  # shards of an interrupted measurement
                shutil.rmtree(folder, ignore_errors=True)
        fitted = {
            folder: settle_spec(teacher, spec, folder, self._progress) for folder, spec in specs.items()
        }
        some = next(iter(fitted.values())).spec
        fewest = least_count(some, classes)
        # an upper bound: the first images are slower than all others
        rough = {folder: image_seconds(teacher, one.spec) for folder, one in fitted.items()}
        first, size = some.indices(0, classes), None
        small = Cost.total(rough.values()).of(some, classes, first) * len(first) > time_left
        if small and possible_workers(teacher, self._recipe.workers, engine) > 1 and _may_be_shorter(specs):
            size = math.lcm(*(in_batches(one.spec) for one in fitted.values()))
            specs = {folder: in_files(spec, size) for folder, spec in specs.items()}
            fitted = {folder: settled.in_files(size) for folder, settled in fitted.items()}
            some = next(iter(fitted.values())).spec
        asked = self._recipe.workers or engine.cores()
        workers = min(
            fit_workers(
                teacher, one.spec, asked, shards=one.spec.shards(classes), seconds=math.inf, engine=engine
            )
            for one in fitted.values()
        )
        engine.start(workers)
        pieces, costs = {}, {}
        for folder, settled in fitted.items():
            piece = settled.sized(fewest).spec if small and size is None else settled.spec
            numbers = range(min(workers, piece.shards(classes)))
            made = time_shards(teacher, piece, folder, numbers, engine=engine)
            pieces[folder] = _Piece(piece, {number: entry for number, (_, entry) in made.items()})
            optimised = sum(piece.planned(piece.indices(number, classes), classes) for number in numbers)
            spent = sum(one for one, _ in made.values())
            costs[folder] = rough[folder].measured(spent, pieces[folder].images(classes), optimised)
        if some.targets.order == "interleaved":  # images that exist cost no more time
            fewest = max(fewest, min(piece.images(classes) for piece in pieces.values()))
        cost = Cost.total(costs.values())
        count = images_that_fit(
            some,
            cost.plain,
            time_left,
            optimising=cost.optimising,
            classes=classes,
            workers=workers,
            fewest=fewest,
        )
        kept = {
            folder: piece.kept(folder, fitted[folder].sized(count).spec, classes)
            for folder, piece in pieces.items()
        }
        chosen = {"count": count} if size is None else {"count": count, "shard_size": size}
        some = replace(some, count=count)
        seconds = {folder.name: one.of(some, classes) for folder, one in costs.items()}
        budget = self._write(**chosen, seconds_per_image=seconds)
        for folder, entries in kept.items():
            spec = replace(specs[folder], count=count)
            writer = open_writer(teacher, spec, fitted[folder].sized(count), folder)
            for number, entry in entries.items():
                writer.add(number, entry)
        return budget

    def fit_steps(
        self, recipe: Recipe, specs: Specs, sets: Sets, pictures: Mapping[str, TransferSet] | None = None
    ) -> Recipe:
        """Return the recipe with the number of training steps, which all students take.

        Args:
            recipe: from `fit_sets`.
            specs: of the students, by name.
            sets: their complete sets by the same names; None where a generator makes all images.
            pictures: of the user's, as for `distill`.

        Raises:
            ZskdError: the time is too short for a student.
        """
        steps = None if self._found is None else self._found.steps
        if steps is None:
            self._progress.log("budget: measuring the speed of training")
            steps = self._time_steps(recipe, specs, sets, pictures)
        sizes = [len(one) for one in sets.values() if one is not None]
        images = f"{sizes[0]:,} images and " if sizes else ""
        self._progress.log(f"budget: {images}{steps:,} steps fit into {readable_seconds(self._seconds)}")
        return replace(recipe, distill=replace(recipe.distill, steps=steps, epochs=None))

    def _time_steps(
        self, recipe: Recipe, specs: Specs, sets: Sets, pictures: Mapping[str, TransferSet] | None
    ) -> int:
        how = execution(recipe)
        workers = trained_together(self._teacher, list(specs.values()), how)
        turns = math.ceil(len(specs) / workers)
        each = min(_LONGEST_TIMING, _FOR_TIMING * self._seconds / turns)
        scratch = self._folder / TIMED
        shutil.rmtree(scratch, ignore_errors=True)  # of an interrupted measurement
        try:
            paces, beside = time_students(
                self._teacher, specs, sets, scratch, each, execution=how, pictures=pictures
            )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        spent = time.perf_counter() - self._started
        own = _steps_of_image_bank(recipe)
        left = self._seconds * (1 - _MARGIN) - spent - beside
        steps = steps_that_fit(paces, left, workers=workers, own=own)
        if steps < FEWEST_STEPS:
            self._forget()
            # a larger budget also gives more time to sets and timing
            needed = spent + beside + training_seconds(paces, FEWEST_STEPS + own, workers)
            minutes = math.ceil(needed / (1 - _MARGIN - FOR_SETS - _FOR_TIMING) / 6) / 10
            raise ZskdError(
                f"--budget {recipe.budget:g} allows {max(0, steps)} steps, and a student needs at least "
                f"{FEWEST_STEPS}: give --budget {minutes:g} or more"
            )
        found = dict(zip(specs, paces, strict=True))
        self._write(steps=steps, paces=found, beside=round(beside, 3), seconds=round(spent, 3))
        return steps

    def _forget(self) -> None:
        """Delete file and sets of a refused budget: the sets of a larger one can have another size.

        The file goes last: without it, sets of the size that it tells would be in the way.
        """
        for folder in self._sets:
            shutil.rmtree(folder)
        remove_file(self._folder / BUDGET)

    def _write(self, **found: Any) -> BudgetFile:
        before = (
            {}
            if self._found is None
            else {key: getattr(self._found, key) for key in self._found.model_fields_set}
        )
        now = {
            "minutes": self._minutes,
            "key": self._key,
            "seconds": round(time.perf_counter() - self._started, 3),
            "versions": versions(),
            "processor": processor(),
        }
        if self._earlier:
            now["earlier"] = round(self._earlier, 3)
        self._found = BudgetFile(**before | now | found)
        write_artefact(self._folder / BUDGET, self._found)
        return self._found


@dataclass(frozen=True)
class _Piece:
    """Shards that were made for timing."""

    spec: SetSpec
    """Of the set that they were made for."""
    entries: dict[int, ShardEntry]

    def images(self, classes: int) -> int:
        """Return the number of images, dropped ones included."""
        return sum(len(self.spec.indices(number, classes)) for number in self.entries)

    def kept(self, folder: Path, spec: SetSpec, classes: int) -> dict[int, ShardEntry]:
        """Return the shards that are part of the final set, and delete the others."""
        kept = {}
        for number, entry in self.entries.items():
            alike = spec.targets.order == "interleaved" or spec.count == self.spec.count
            if alike and spec.indices(number, classes) == self.spec.indices(number, classes):
                kept[number] = entry
            else:
                remove_file(folder / entry.file)
        return kept


def _may_be_shorter(specs: Mapping[Path, SetSpec]) -> bool:
    """Whether shards of one batch lose nothing.

    Their size is neither given nor that of a row, and the images of a shard fill a batch: none stays noise
    beside others that are optimised.
    """
    return all(
        has_usual_shards(spec)
        and spec.synthesis.shard_size > spec.synthesis.batch_size
        and not (spec.optimises and spec.synthesis.noise_share)
        for spec in specs.values()
    )


def _steps_of_image_bank(recipe: Recipe) -> float:
    """Return the cost of the image bank, in training steps: an image costs about as much per optimisation
    step as per training step."""
    bank = recipe.distill.image_bank
    if not bank.share:
        return 0.0
    made = (bank.count - 1) * min(bank.images, bank.keep)
    return made * bank.steps / recipe.distill.batch_size
