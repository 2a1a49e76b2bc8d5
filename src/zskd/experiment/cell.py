"""One cell: its student is trained, measured once on the test set, and saved as a record."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zskd.config.data import DataConfig
from zskd.config.identity import identity
from zskd.core.device import processor, use_threads
from zskd.core.errors import readable_errors
from zskd.core.files import make_folder, sha256_json
from zskd.core.passes import Passes, StagePasses, sum_known, sum_passes
from zskd.core.progress import Progress
from zskd.core.tensorboard import tracked
from zskd.core.timing import Clock
from zskd.core.versions import source_commit, versions
from zskd.data.datasets import Split, load_data
from zskd.distillation.build import build_student, passes_of
from zskd.distillation.spec import StudentSpec
from zskd.evaluation.metrics import predict
from zskd.experiment.plan import Cell
from zskd.experiment.record import FORMAT, Record, pack_mask, write_record
from zskd.models.checkpoint import read_card
from zskd.models.classifier import Classifier
from zskd.teacher.sources import load_teacher
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import read_manifest

STUDENT = "student"
"""Folder of a cell's student, in that of the cell."""
_SHOWN = 64
"""Number of images of a set that TensorBoard shows."""


@dataclass(frozen=True)
class Job:
    """A cell with everything that a worker process needs to run it."""

    cell: Cell
    key: str
    experiment: str
    folder: Path
    """Of this cell alone."""
    teacher: Path
    """Checkpoint folder of its teacher."""
    images: Path | None
    """Folder of its transfer set; None for the teacher itself and for generated images."""
    count: int
    """Number of training images: the first ones of the set."""
    nested: bool
    """Whether its images may be the beginning of a larger set, and the steps of each are its passes."""
    set_seconds: float
    """Seconds that its images took."""
    workers: int
    """Processes of the experiment."""
    record: Path
    """File of its record."""
    ledger: Path
    """File that lists each use of the test set."""
    command: str
    """Command line that runs this cell again, for its record."""


def run_cell(job: Job, progress: Progress) -> Record:
    """Train and measure the student of a cell, and write its record.

    The test set is used here, once. The ledger gets its line before any result is reported.

    Args:
        job: the cell and what it needs.
        progress: receives steps, images and results.

    Raises:
        ZskdError: an input is missing or damaged, or training fails.
    """
    with tracked(progress, job.cell.recipe.tensorboard, job.cell.name) as tracker:
        record = _record(job, tracker)
        note_evaluation(job.ledger, record)
        tracker.note("test/accuracy", record.test_accuracy, record.student_steps)
        tracker.note("test/agreement", record.teacher_agreement, record.student_steps)
    write_record(job.record, record)
    return record


@dataclass(frozen=True)
class Trained:
    """The networks of a cell, frozen."""

    teacher: Classifier
    student: Classifier
    """The teacher itself in a cell that measures it."""
    images: TransferSet | None
    """The images of its training; None for the teacher itself and for generated images."""


def train_cell(job: Job, progress: Progress) -> Trained:
    """Train the student of a cell, or load it.

    Raises:
        ZskdError: as `run_cell` does.
    """
    recipe, images = job.cell.recipe, None
    teacher = load_teacher(recipe, job.teacher)
    if job.images is not None:
        # a set that drops images is smaller than planned
        images = TransferSet(job.images, first=min(job.count, read_manifest(job.images).count))
        progress.picture("images", images.images(torch.arange(min(_SHOWN, len(images)))))
    if job.cell.arm.images == "none":
        return Trained(teacher, teacher, None)
    spec = StudentSpec(student=recipe.student, seed=recipe.seed, distill=recipe.distill)
    student = build_student(teacher, spec, images, job.folder / STUDENT, progress=progress)
    return Trained(teacher, student, images)


@contextmanager
def timed(job: Job) -> Iterator[Clock]:
    """Give the block the threads of a cell, and add its duration to the cell's `student`."""
    clock = Clock(job.folder / "timings.json")
    with use_threads(job.cell.recipe.threads or 1), clock("student"):
        yield clock


def _record(job: Job, progress: Progress) -> Record:
    recipe = job.cell.recipe
    with timed(job) as clock:
        made = train_cell(job, progress)
        teacher, student, images = made.teacher, made.student, made.images
        of_teacher = job.cell.arm.images == "none"
        facts = _facts_of_teacher(job) if of_teacher else _facts_of_student(job, images)
        measured = _measured(
            teacher, student, load_test(recipe.data, teacher.spec.shape, teacher.class_names)
        )
    return Record(
        format=FORMAT,
        experiment=job.experiment,
        cell=job.cell.name,
        key=job.key,
        dataset=recipe.data.label,
        arm=job.cell.arm_name,
        title=job.cell.arm.title,
        preset=recipe.preset,
        rate=job.cell.rate,
        count=job.count if images is None else len(images),
        seed=recipe.seed,
        recipe_sha256=sha256_json(identity(recipe)),
        teacher_sha256=teacher.fingerprint(),
        student_sha256=student.fingerprint(),
        student_parameters=student.parameters_count,
        selection="last",
        reported=job.cell.reported,
        wall_seconds=round(job.set_seconds + clock.seconds["student"], 1),
        set_seconds=round(job.set_seconds, 1),
        workers=job.workers,
        threads=recipe.threads or 1,
        versions=versions(),
        cpu=str(processor()["name"]),
        cores=int(processor()["cores"]),
        commit=source_commit(),
        command=job.command,
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        **facts,
        **measured,
    )


@lru_cache(maxsize=1)
def load_test(data: DataConfig, shape: tuple[int, int, int], names: tuple[str, ...]) -> Split:
    """Return the test split, its images (N, C, H, W) in [0, 1]; a worker reads it once for all its cells.

    Args:
        data: of the experiment.
        shape: of the images.
        names: of the teacher's classes, which number those of the data.

    Raises:
        ZskdError: the data are missing, or have another shape or other classes.
    """
    return load_data(data, shape).for_classes(names).test


def _measured(teacher: Classifier, student: Classifier, test: Split) -> dict[str, Any]:
    of_student, of_teacher = (predict(one, test.images) for one in (student, teacher))
    correct = of_student == test.labels
    return {
        "test_accuracy": _percent(correct),
        "test_images": len(test),
        "test_hits": pack_mask(correct.numpy()),
        "teacher_accuracy": _percent(of_teacher == test.labels),
        "teacher_agreement": _percent(of_student == of_teacher),
    }


def _percent(mask: Tensor) -> float:
    return 100 * int(mask.sum()) / len(mask)


def _facts_of_teacher(job: Job) -> dict[str, Any]:
    recipe = job.cell.recipe
    return {
        "method": "none",
        "augmented": False,
        "unique_images": job.count,
        "student": read_card(job.teacher).architecture.title,
        "student_steps": recipe.teacher.total_steps(job.count) if recipe.teacher.path is None else 0,
        "teacher_forwards": 0,
        "teacher_backwards": 0,
    }


def _facts_of_student(job: Job, images: TransferSet | None) -> dict[str, Any]:
    config, recipe = job.cell.recipe.distill, job.cell.recipe
    total = passes_of_cell(job, images)
    return {
        "method": config.generator.method if images is None else images.manifest.method,
        "augmented": config.augment.changes,
        "unique_images": job.count if images is None else _unique(images),
        "student": recipe.student,
        "student_steps": job.cell.student_steps(job.count if images is None else len(images)),
        "teacher_forwards": None if total is None else sum(one.teacher_forward for one in total.values()),
        "teacher_backwards": None if total is None else sum(one.teacher_backward for one in total.values()),
        "passes": passes_of(job.folder / STUDENT),
    }


def passes_of_cell(job: Job, images: TransferSet | None) -> Passes | None:
    """Return the passes for the images of a cell and for its student's training, by stage.

    Args:
        job: a cell whose student is trained.
        images: of its training; None for generated ones. Real ones cost nothing: only made ones need the
            teacher's logits that are stored with them.

    Returns:
        None where an older version made images or student, and did not count.
    """
    of_images: Passes | None = {}
    if images is not None and job.cell.arm.images == "made":
        of_images = _of_nested(images) if job.nested else _of_share(images)
    return sum_known([of_images, passes_of(job.folder / STUDENT)])


def _of_nested(images: TransferSet) -> Passes:
    """Return the passes for the steps and labels of the images themselves, and for what the teacher was asked
    before, whatever else their set holds."""
    taken, none = int(images.column("steps").sum()), {"student_forward": 0, "student_backward": 0}
    of_images = {
        "synthesis": StagePasses(teacher_forward=taken, teacher_backward=taken, **none),
        "labelling": StagePasses(teacher_forward=len(images), teacher_backward=0, **none),
    }
    return sum_passes([images.manifest.asked or {}, of_images])


def _of_share(images: TransferSet) -> Passes | None:
    """Return the passes of a set; of its first images, their share, and all that the teacher was asked
    before."""
    manifest, share = images.manifest, len(images) / images.manifest.count
    of_set = sum_known(entry.passes for entry in manifest.shards)
    if of_set is None:
        return None
    of_images = {
        stage: StagePasses(**{of: round(share * number) for of, number in counts.model_dump().items()})
        for stage, counts in of_set.items()
    }
    return sum_passes([manifest.asked or {}, of_images])


def _unique(images: TransferSet) -> int:
    return len({sha256(image.numpy().tobytes()).digest() for shard in images for image in shard.images})


def note_evaluation(ledger: Path, record: Record) -> None:
    """Append one line to the ledger of evaluations on test sets. Earlier lines are never changed.

    Raises:
        ZskdError: the file cannot be written.
    """
    line = {
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "experiment": record.experiment,
        "dataset": record.dataset,
        "cell": record.cell,
        "key": record.key,
        "student_sha256": record.student_sha256,
        "test_images": record.test_images,
        "test_accuracy": record.test_accuracy,
        "commit": record.commit,
    }
    append_line(ledger, line)


def append_line(ledger: Path, line: Mapping[str, Any]) -> None:
    """Append one line of JSON. Earlier lines are never changed.

    Raises:
        ZskdError: the file cannot be written.
    """
    make_folder(ledger.parent)
    written = (json.dumps(line) + "\n").encode()
    with readable_errors(ledger, "append to"), ledger.open("ab", buffering=0) as stream:
        done = stream.write(written)  # at once: lines do not mix
        if done < len(written):  # the next line would join what is there of this one
            stream.truncate(stream.tell() - done)
            raise OSError("only a part of the line fits: free some space")
        os.fsync(stream.fileno())


def end_last_line(ledger: Path) -> None:
    """End the last line of a ledger where a power cut left it unfinished, so that no other line joins it.

    Raises:
        ZskdError: the file cannot be read or written.
    """
    if not ledger.is_file():
        return
    with readable_errors(ledger, "append to"), ledger.open("ab+") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 1))
        if stream.read() not in (b"", b"\n"):
            stream.write(b"\n")
