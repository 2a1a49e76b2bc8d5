"""The files of an experiment, and the state of each cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from zskd.config.entries import Registry
from zskd.config.identity import identity
from zskd.core.errors import ZskdError
from zskd.core.files import is_locked, sha256_json
from zskd.data.datasets import Dataset
from zskd.experiment.definition import Experiment
from zskd.experiment.plan import Cell
from zskd.experiment.record import read_record, record_path
from zskd.synthesis.build import hashes_of
from zskd.synthesis.spec import SetSpec, spec_values
from zskd.teacher.sources import Sources, code_of_teacher, open_sources


@dataclass(frozen=True)
class Images:
    """The training images of a student: a set, made or drawn from real images.

    A smaller set with the same settings is the beginning of a larger one.
    """

    spec: SetSpec | None
    """Of a set that is made; None for real images."""
    leave_out: tuple[int, ...]
    """Class indices that a draw from the real images leaves out."""
    seed: int
    count: int


@dataclass(frozen=True)
class CellPaths:
    """A cell and the paths of its files."""

    cell: Cell
    key: str
    """Hash of everything that determines the cell."""
    count: int
    """Number of training images."""
    images: Images | None
    """The whole set, of which the cell uses the first images; None for the teacher itself and for generated
    images."""
    folder: Path
    """Of this cell alone."""
    teacher: Path
    """Checkpoint folder of its teacher."""
    set_folder: Path | None
    """Of `images`; several cells can share it."""
    record: Path

    @property
    def log(self) -> Path:
        """Log of its failure; exists where it failed."""
        return self.folder / "failed.log"

    @property
    def started(self) -> Path:
        """Empty file; exists once the cell was started."""
        return self.folder / "started"


class State(Enum):
    """State of a cell. `LEFT`: not started, or interrupted."""

    DONE = "done"
    RUNNING = "running"
    FAILED = "failed"
    LEFT = "left"


def lay_out(
    experiment: Experiment, cells: Sequence[Cell], out: Path, results: Path
) -> tuple[list[CellPaths], Sources]:
    """Return the cells with their paths, and the data and teacher that all of them share.

    Args:
        experiment: with all its arms.
        cells: of this experiment, at least one.
        out: folder of teachers, sets and students.
        results: folder of records.

    Raises:
        ZskdError: there are no data to measure on, or fewer real images than a cell needs.
    """
    sources = open_sources(cells[0].recipe)
    return place_cells(experiment.name, cells, sources, out, results), sources


def place_cells(
    name: str, cells: Sequence[Cell], sources: Sources, out: Path, results: Path
) -> list[CellPaths]:
    """Return some cells with their paths.

    Args:
        name: of the experiment.
        cells: all have the data and the teacher of `sources`.
        sources: data and teacher.
        out: folder of teachers, sets and students.
        results: folder of records.

    Raises:
        ZskdError: as `lay_out` does.
    """
    data = sources.data
    if data is None:
        raise ZskdError(f"experiment {name} measures on real images, and there are none: give --data.name")
    sets = [_images(cell, data) for cell in cells]
    for cell, images in zip(cells, sets, strict=True):
        _check_size(cell, images, data)
    layout = []
    for cell, images in zip(cells, sets, strict=True):
        count = cell.count(data.train_size, len(data.train))
        key = cell.key(count, sources.hashes.to_json())
        whole = None if images is None else _whole(images, [one for one in sets if one])
        teacher = _teacher_name(cell, sources)
        layout.append(
            CellPaths(
                cell=cell,
                key=key,
                count=count,
                images=whole,
                folder=out / "cells" / f"{cell.name}-{key[:8]}",
                teacher=out / "teachers" / teacher,
                set_folder=None if whole is None else out / "sets" / _set_name(whole, teacher),
                record=record_path(results, name, cell.name),
            )
        )
    return layout


def states(layout: Sequence[CellPaths], out: Path) -> list[State]:
    """Return the state of each cell, in the same order.

    Args:
        layout: the cells.
        out: folder of the experiment; a process that runs it holds its lock.

    Raises:
        ZskdError: a record is damaged, or was made with other settings.
    """
    alive = is_locked(out)
    return [_state(paths, alive) for paths in layout]


def _state(paths: CellPaths, alive: bool) -> State:
    if paths.record.is_file():
        check_record(paths.record, paths.key)
        return State.DONE
    if paths.log.is_file():
        return State.FAILED
    return State.RUNNING if alive and paths.started.is_file() else State.LEFT


def check_record(path: Path, key: str) -> None:
    """Check that a record is of the cell with a key.

    Raises:
        ZskdError: it is missing, damaged, or was made with other settings or other code.
    """
    if read_record(path).key != key:
        raise ZskdError(
            f"{path} was made with other settings or code: move it away, or give another --results"
        )


def _images(cell: Cell, data: Dataset) -> Images | None:
    seed = cell.recipe.seed
    if cell.arm.images in ("none", "generated"):
        return None
    if cell.arm.images == "made":
        spec = cell.spec(data.train_size)
        return Images(spec, (), seed, spec.count)
    return Images(None, cell.arm.leave_out, seed, cell.count(data.train_size, len(data.train)))


def _check_size(cell: Cell, images: Images | None, data: Dataset) -> None:
    """Refuse to draw more real images than there are, and to leave out classes that do not exist."""
    if images is None or images.spec is not None:
        return
    last = len(data.class_names) - 1
    for label in images.leave_out:
        if not 0 <= label <= last:
            raise ZskdError(
                f"{cell.name} leaves out class {label}, and the classes have the numbers 0 to {last}: "
                "correct leave_out"
            )
    left_out = torch.isin(data.train.labels, torch.tensor(images.leave_out, dtype=torch.int64))
    there = len(data.train) - int(left_out.sum())
    if images.count > there:
        raise ZskdError(
            f"{cell.name} needs {images.count:,} real images and there are {there:,}: lower its rate"
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
    known |= hashes_of(images.spec) if images.spec else {}
    method = Registry.label(images.spec.method) if images.spec else "real"
    return f"{method}-{images.count}-{sha256_json(known)[:8]}"


def _teacher_name(cell: Cell, sources: Sources) -> str:
    seed = cell.recipe.teacher_seed
    values: dict[str, Any] = identity(cell.recipe) | {"seed": seed}
    values["teacher"].pop("seed", None)  # cells of other seeds share their teacher
    known = {key: values[key] for key in ("seed", "data", "teacher", "threads", "device", "rewrite")}
    known |= {"code": code} if (code := code_of_teacher(cell.recipe, sources)) else {}
    return f"seed-{seed}-{sha256_json(known | sources.hashes.to_json())[:8]}"
