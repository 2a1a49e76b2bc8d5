"""Minutes turned into numbers: how many images and how many steps fit into the time that a recipe allows.

The work is timed once, on this machine: first the making of a piece of each set, which gives the number of
images; then, when the sets are there, some steps of each student, which give their number. Both are kept in a
file. From then on they are as good as given by hand, and a run that was killed goes on with them.
"""

from __future__ import annotations

import math
import shutil
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

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
from zskd.core.parallel import start_workers
from zskd.core.progress import Progress, readable_seconds
from zskd.core.timing import Pace
from zskd.core.versions import versions
from zskd.distillation.students import time_students, training_seconds
from zskd.models.classifier import Classifier
from zskd.run.arms import execution, student_spec
from zskd.synthesis.build import make_shards, open_writer, seconds_per_image, shard_workers
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import MANIFEST, ShardEntry

BUDGET = "budget.json"
_FOR_SETS = 0.25
"""Share of the time that the sets may take, before there are fewer images."""
_MARGIN = 0.05
"""Share that is left over: the machine may be slower later on."""
_FOR_TIMING = 0.05
"""Share that goes into steps which are timed and thrown away."""
_FEWEST_IMAGES, _FEWEST_STEPS = 300, 100
"""With less there is no student."""
_LONGEST_TIMING = 20.0
"""Seconds after which a pace is known."""


class BudgetFile(Artefact):
    """What a budget allows."""

    minutes: Annotated[float, Field(gt=0)]
    key: Name
    """Of everything that determines the work."""
    seconds: Seconds
    """Spent so far."""
    count: AtLeastOne | None = None
    """Images in each set; absent where there is none."""
    seconds_per_image: dict[Name, Seconds] | None = None
    """Of one worker, by the sets."""
    versions: Versions
    processor: Processor
    steps: AtLeastOne | None = None
    """Of each student; absent until they are timed."""
    paces: dict[Name, Pace] | None = None
    """Of the students, by the arms."""
    beside: Seconds | None = None
    """What the workers took to start and to end."""

    def to_json(self) -> JsonObject:
        """Return the object as JSON holds it: where there are no sets, what was timed comes first."""
        values = super().to_json()
        if self.count is None:
            values |= {key: values.pop(key) for key in ("versions", "processor")}
        return values


class Budget:
    """The minutes of one recipe and what became of them."""

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
        """Read what has been found before, and start the clock.

        Args:
            recipe: with a budget.
            teacher: frozen.
            folder: of the run or of the student.
            key: of everything that determines the work; what was found for another one is not used.
            spent: seconds that were spent behind what stands in the file.
            progress: told of what was found.
        """
        assert recipe.budget is not None
        self._recipe, self._teacher, self._folder, self._progress = recipe, teacher, folder, progress
        self._seconds = 60 * recipe.budget
        self._found: BudgetFile | None = None
        self._started = time.perf_counter()
        if (folder / BUDGET).is_file():
            found = read_artefact(folder / BUDGET, BudgetFile, "what a budget allows")
            if found.key == key:
                self._found = found
                self._started -= found.seconds + spent
        self._minutes, self._key = recipe.budget, key
        self._sets: list[Path] = []

    def fit_count(self, specs: Mapping[Path, SetSpec]) -> int:
        """Return how many images each set has.

        Args:
            specs: what the recipe asks for, by the folders of the sets. The shards that are timed are kept
                there where they are part of the sets to come.
        """
        self._sets = list(specs)
        if self._found is not None and self._found.count is not None:
            return self._found.count
        self._progress.log("budget: the making of images is timed")
        return self._time_sets(specs)

    def _time_sets(self, specs: Mapping[Path, SetSpec]) -> int:
        teacher, classes, time_left = self._teacher, self._teacher.classes, _FOR_SETS * self._seconds
        workers = shard_workers(teacher, self._recipe.workers)
        for folder in specs:
            if not (folder / MANIFEST).is_file():  # shards that one who was killed had begun to time
                shutil.rmtree(folder, ignore_errors=True)
        some = next(iter(specs.values()))
        fewest = _least_count(some, classes)
        # at most; and the first images are slower than all others
        rough = sum(seconds_per_image(teacher, spec) for spec in specs.values())
        small = rough * len(some.indices(0, classes)) > time_left
        start_workers(workers)
        pieces, seconds = {}, {}
        for folder, spec in specs.items():
            piece = replace(spec, count=fewest) if small else spec
            numbers = range(min(workers, piece.shards(classes)))
            started = time.perf_counter()
            made = make_shards(
                teacher,
                piece,
                folder,
                numbers,
                workers=min(workers, len(numbers)),
                on_progress=lambda _: None,
            )
            pieces[folder] = _Piece(piece, dict(made))
            seconds[folder.name] = (time.perf_counter() - started) / len(piece.indices(0, classes))
        if some.targets.order == "interleaved":  # what has been made costs nothing more
            fewest = max(fewest, min(piece.images(classes) for piece in pieces.values()))
        count = images_that_fit(
            some, sum(seconds.values()), time_left, classes=classes, workers=workers, fewest=fewest
        )
        kept = {
            folder: piece.kept(folder, replace(specs[folder], count=count), classes)
            for folder, piece in pieces.items()
        }
        self._write(count=count, seconds_per_image=seconds)
        for folder, entries in kept.items():
            writer = open_writer(teacher, replace(specs[folder], count=count), folder)
            for number, entry in entries.items():
                writer.add(number, entry)
        return count

    def fit_steps(self, recipe: Recipe, sets: Mapping[str, TransferSet | None]) -> Recipe:
        """Return the recipe with the number of steps that its students take.

        Args:
            recipe: with the count that was found.
            sets: the whole sets by the names of the arms; None where a generator makes all images.

        Raises:
            ZskdError: the time does not suffice for a student.
        """
        steps = None if self._found is None else self._found.steps
        if steps is None:
            self._progress.log("budget: the steps of the students are timed")
            steps = self._time_steps(recipe, sets)
        sizes = [len(one) for one in sets.values() if one is not None]
        images = f"{sizes[0]:,} images and " if sizes else ""
        self._progress.log(f"budget: {images}{steps:,} steps fit into {readable_seconds(self._seconds)}")
        return replace(recipe, distill=replace(recipe.distill, steps=steps, epochs=None))

    def _time_steps(self, recipe: Recipe, sets: Mapping[str, TransferSet | None]) -> int:
        how, specs = execution(recipe), dict.fromkeys(sets, student_spec(recipe))
        workers = how.side_by_side(self._teacher, len(sets))
        turns = math.ceil(len(sets) / workers)
        each = min(_LONGEST_TIMING, _FOR_TIMING * self._seconds / turns)
        scratch = self._folder / "timed"
        shutil.rmtree(scratch, ignore_errors=True)  # of one killed
        try:
            paces, beside = time_students(self._teacher, specs, sets, scratch, each, execution=how)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        spent = time.perf_counter() - self._started
        own = _steps_of_rounds(recipe)
        left = self._seconds * (1 - _MARGIN) - spent - beside
        steps = steps_that_fit(paces, left, workers=workers, own=own)
        if steps < _FEWEST_STEPS:
            self._forget()
            # with more time the sets may grow to their share, and more is timed
            needed = spent + beside + training_seconds(paces, _FEWEST_STEPS + own, workers)
            minutes = math.ceil(needed / (1 - _MARGIN - _FOR_SETS - _FOR_TIMING) / 6) / 10
            raise ZskdError(
                f"--budget {recipe.budget:g} allows {max(0, steps)} steps, and a student takes at least "
                f"{_FEWEST_STEPS}: give --budget {minutes:g} or more"
            )
        found = dict(zip(sets, paces, strict=True))
        self._write(steps=steps, paces=found, beside=round(beside, 3), seconds=round(spent, 3))
        return steps

    def _forget(self) -> None:
        """Leave nothing of a budget that is refused: the sets of a larger one may have another size."""
        remove_file(self._folder / BUDGET)
        for folder in self._sets:
            shutil.rmtree(folder)

    def _write(self, **found: Any) -> None:
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
        self._found = BudgetFile(**before | now | found)
        write_artefact(self._folder / BUDGET, self._found)


@dataclass(frozen=True)
class _Piece:
    """Shards that have been made to be timed."""

    spec: SetSpec
    """Of the set that they were made for."""
    entries: dict[int, ShardEntry]

    def images(self, classes: int) -> int:
        """Return how many images they were made of, dropped ones included."""
        return sum(len(self.spec.indices(number, classes)) for number in self.entries)

    def kept(self, folder: Path, spec: SetSpec, classes: int) -> dict[int, ShardEntry]:
        """Return the shards that are part of a set to come, and delete the others."""
        kept = {}
        for number, entry in self.entries.items():
            alike = spec.targets.order == "interleaved" or spec.count == self.spec.count
            if alike and spec.indices(number, classes) == self.spec.indices(number, classes):
                kept[number] = entry
            else:
                remove_file(folder / entry.file)
        return kept


def images_that_fit(
    spec: SetSpec, seconds_per_image: float, seconds: float, *, classes: int, workers: int, fewest: int
) -> int:
    """Return how many images of a set can be made in some time: whole shards, if that is more than one.

    Args:
        spec: of the largest set that is wanted.
        seconds_per_image: of one worker, while the others work as well.
        seconds: that there are.
        classes: of the teacher.
        workers: that make shards side by side.
        fewest: images that are made in any case.
    """

    def takes(count: int) -> float:
        part = replace(spec, count=count)
        turns = math.ceil(part.shards(classes) / workers)
        return seconds_per_image * min(count, turns * part.shard_size(classes))

    if spec.targets.order == "rows":
        unit = classes * len(spec.targets.betas)
        sizes = {*range(unit, spec.count, unit)}
    else:
        unit = spec.synthesis.shard_size
        sizes = {*range(100, min(unit, spec.count), 100), *range(unit, spec.count, unit)}
    choice = sorted({size for size in sizes if size > fewest} | {fewest, spec.count})
    return choice[max(0, bisect_right(choice, seconds, key=takes) - 1)]


def _least_count(spec: SetSpec, classes: int) -> int:
    unit = classes * len(spec.targets.betas) if spec.targets.order == "rows" else 1
    return min(spec.count, math.ceil(_FEWEST_IMAGES / unit) * unit)


def steps_that_fit(paces: Sequence[Pace], seconds: float, *, workers: int, own: float = 0.0) -> int:
    """Return how many steps each of some students can take until the last has finished.

    Args:
        paces: of the students in their order.
        seconds: that there are for all.
        workers: that train students side by side.
        own: steps' worth of work that each does beside its steps.

    Returns:
        The number of steps, or −1 if not even a beginning fits.
    """
    most = math.ceil(max(0.0, seconds) / min(pace.step for pace in paces)) + 1
    return bisect_right(range(most), seconds, key=lambda n: training_seconds(paces, n + own, workers)) - 1


def _steps_of_rounds(recipe: Recipe) -> float:
    """What making images against the student costs, in steps: for each of its own, an image is about as dear
    as one that is shown."""
    rounds = recipe.distill.image_bank
    if not rounds.share:
        return 0.0
    made = (rounds.count - 1) * min(rounds.images, rounds.keep)
    return made * rounds.steps / recipe.distill.batch_size
