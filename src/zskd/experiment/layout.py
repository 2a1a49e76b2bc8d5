"""Where everything of an experiment lies, and how far it has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from zskd.config.identity import identity
from zskd.config.registry import Registry
from zskd.core.errors import ZskdError
from zskd.core.files import is_locked, sha256_json
from zskd.data.datasets import Dataset
from zskd.experiment.definition import Experiment
from zskd.experiment.plan import Cell
from zskd.experiment.record import read_record, record_path
from zskd.synthesis.spec import SetSpec, spec_values
from zskd.teacher.sources import Sources, open_sources


@dataclass(frozen=True)
class Images:
    """What a student learns from: a set, made or drawn, of which smaller ones are the beginning."""

    spec: SetSpec | None
    """Of a set that is made."""
    leave_out: tuple[int, ...]
    """Classes that a draw from the real images leaves out."""
    seed: int
    count: int


@dataclass(frozen=True)
class Place:
    """A cell, and where its things lie."""

    cell: Cell
    key: str
    count: int
    """Images that it learns from."""
    images: Images | None
    """The set that these are the beginning of; None for the teacher itself and for a generator's images."""
    folder: Path
    teacher: Path
    set_folder: Path | None
    record: Path

    @property
    def log(self) -> Path:
        """Why it failed, when it did."""
        return self.folder / "failed.log"

    @property
    def started(self) -> Path:
        """There once somebody has begun with it."""
        return self.folder / "started"


class State(Enum):
    """How far a cell has come."""

    DONE = "done"
    RUNNING = "running"
    FAILED = "failed"
    LEFT = "left"


def lay_out(
    experiment: Experiment, cells: Sequence[Cell], out: Path, results: Path
) -> tuple[list[Place], Sources]:
    """Return the cells' places, and data and teacher that all of them start from.

    Args:
        experiment: the whole.
        cells: those that are wanted.
        out: folder of teachers, sets and students.
        results: folder of records.

    Raises:
        ZskdError: there are no data to measure on, or fewer real images than a cell wants.
    """
    sources = open_sources(cells[0].recipe)
    data = sources.data
    if data is None:
        raise ZskdError(f"experiment {experiment.name} measures on real images: give --data.name")
    wanted = [_images(cell, data) for cell in cells]
    for cell, images in zip(cells, wanted, strict=True):
        _check_size(cell, images, data)
    places = []
    for cell, images in zip(cells, wanted, strict=True):
        count = cell.count(data.train_size, len(data.train))
        key = cell.key(count, sources.hashes.to_json())
        whole = None if images is None else _whole(images, [one for one in wanted if one])
        teacher = _teacher_name(cell, sources)
        places.append(
            Place(
                cell=cell,
                key=key,
                count=count,
                images=whole,
                folder=out / "cells" / f"{cell.name}-{key[:8]}",
                teacher=out / "teachers" / teacher,
                set_folder=None if whole is None else out / "sets" / _set_name(whole, teacher),
                record=record_path(results, experiment.name, cell.name),
            )
        )
    return places, sources


def states(places: Sequence[Place], out: Path) -> list[State]:
    """Return how far each cell has come.

    Raises:
        ZskdError: a record is damaged, or was made with other settings.
    """
    alive = is_locked(out)
    return [_state(place, alive) for place in places]


def _state(place: Place, alive: bool) -> State:
    if place.record.is_file():
        if read_record(place.record).key != place.key:
            raise ZskdError(
                f"{place.record} was made with other settings: move it away, or give another --results"
            )
        return State.DONE
    if place.log.is_file():
        return State.FAILED
    return State.RUNNING if alive and place.started.is_file() else State.LEFT


def _images(cell: Cell, data: Dataset) -> Images | None:
    seed = cell.recipe.seed
    if cell.arm.images in ("none", "generated"):
        return None
    if cell.arm.images == "made":
        spec = cell.spec(data.train_size)
        return Images(spec, (), seed, spec.count)
    return Images(None, cell.arm.leave_out, seed, cell.count(data.train_size, len(data.train)))


def _check_size(cell: Cell, images: Images | None, data: Dataset) -> None:
    """Refuse a draw of more real images than there are."""
    if images is None or images.spec is not None:
        return
    left_out = torch.isin(data.train.labels, torch.tensor(images.leave_out, dtype=torch.int64))
    there = len(data.train) - int(left_out.sum())
    if images.count > there:
        raise ZskdError(
            f"{cell.name} wants {images.count:,} real images and there are {there:,}: lower its rate"
        )


def _whole(images: Images, others: Sequence[Images]) -> Images:
    """Return the largest of the sets that `images` is the beginning of; itself where there is none."""
    if images.spec is not None and not images.spec.nests:
        return images
    same = [other for other in others if _resized(other, images.count) == images]
    return max(same, key=lambda one: one.count)


def _resized(images: Images, count: int) -> Images:
    return replace(images, count=count, spec=images.spec and replace(images.spec, count=count))


def _set_name(images: Images, teacher: str) -> str:
    values = {"spec": images.spec and spec_values(images.spec), "leave_out": list(images.leave_out)}
    known = values | {"seed": images.seed, "count": images.count, "teacher": teacher}
    method = Registry.label(images.spec.method) if images.spec else "real"
    return f"{method}-{images.count}-{sha256_json(known)[:8]}"


def _teacher_name(cell: Cell, sources: Sources) -> str:
    seed = cell.recipe.teacher_seed
    values: dict[str, Any] = identity(cell.recipe) | {"seed": seed}
    values["teacher"].pop("seed", None)  # cells of other seeds share their teacher
    known = {key: values[key] for key in ("seed", "data", "teacher", "threads", "device", "rewrite")}
    return f"seed-{seed}-{sha256_json(known | sources.hashes.to_json())[:8]}"
