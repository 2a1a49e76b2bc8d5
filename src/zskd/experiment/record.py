"""Records: the results of one cell as a JSON file, with everything that the tables show.

A record that is incomplete or contradicts itself is refused.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, model_validator

from zskd.core.artefact import Artefact, AtLeastOne, Count, Name, Percent, Seconds, Sha256, first_mistake
from zskd.core.errors import ZskdError
from zskd.core.files import write_json
from zskd.core.passes import Passes
from zskd.core.reading import read_json
from zskd.core.types import CorrectMask

FORMAT: Final = "zskd-record/1"
_ADVICE = "delete it and run its cell again"
LEDGER = "ledger.jsonl"


def _names_torch(versions: dict[str, str]) -> dict[str, str]:
    if not {"zskd", "torch", "python"} <= versions.keys():
        raise ValueError("a record needs the versions of zskd, torch and python")
    return versions


class Reported(Artefact):
    """Published test accuracy for the same arm and rate."""

    value: Percent
    source: Name
    """As tables show it."""


class Record(Artefact):
    """One cell: an arm at a rate with a seed, measured once."""

    format: Literal["zskd-record/1"]
    experiment: str
    cell: str
    """Name of the cell, and of the record's file without `.json`."""
    key: Sha256
    """Hash of everything that determines the cell."""
    dataset: str
    arm: str
    title: str
    """Name of the arm in tables."""
    preset: str
    method: str
    """Method that made the images; `real` for real images, `none` for the teacher itself."""
    augmented: bool
    """Whether the student was trained on augmented images."""
    rate: Annotated[float, Field(gt=0, le=100)] | None
    """Percentage of the training set; None where the arm has no rate."""
    count: AtLeastOne
    """Number of training images."""
    unique_images: AtLeastOne
    """Number of different images among them."""
    seed: Count
    recipe_sha256: Sha256
    teacher_sha256: Sha256
    student_sha256: Sha256
    student: str
    """Architecture of the student."""
    student_parameters: AtLeastOne
    student_steps: Count
    """Of its training; 0 for a teacher that was given."""
    selection: Literal["last"]
    """Which weights are kept: those of the last step. Nothing is selected on test images."""
    test_accuracy: Percent
    test_images: AtLeastOne
    test_correct: Annotated[str, Field(alias="test_hits")]
    """Correct mask of the test images, packed by `pack_mask`: for McNemar's test. `test_hits` in the file."""
    teacher_accuracy: Percent
    teacher_agreement: Percent
    """Percentage of the test images for which student and teacher predict the same class."""
    reported: Reported | None
    teacher_forwards: Count | None
    """Images in all forward passes of the teacher, for the cell's images and for its student. None where a
    set of an older version does not tell them. In records until 2026-11-30, candidates, searches and first
    weights are left out."""
    teacher_backwards: Count | None
    """Images in all its backward passes, likewise."""
    passes: Passes | None = None
    """Passes until the student was trained, by stage, without those of its images; None in records of older
    versions."""
    wall_seconds: Seconds
    """Time for this cell. Of a shared set it counts the share of the images that the cell uses."""
    set_seconds: Seconds
    """Part of `wall_seconds` that its images took."""
    workers: AtLeastOne
    """Processes that ran in parallel while this was timed."""
    threads: AtLeastOne
    versions: Annotated[dict[str, str], AfterValidator(_names_torch)]
    cpu: str
    cores: AtLeastOne
    commit: str | None
    """Of the checkout; None where zskd was installed from a package: see `versions`."""
    command: Name
    """Command line that runs this cell again and compares. It has no --data-dir, which is a matter of the
    machine: add it where the data do not lie in the cache."""
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Record:
        correct = unpack_mask(self.test_correct, self.test_images)
        if abs(100 * int(correct.sum()) / self.test_images - self.test_accuracy) > 1e-6:
            raise ValueError("test_hits and test_accuracy contradict each other")
        if self.unique_images > self.count:
            raise ValueError("more unique images than images")
        if self.set_seconds > self.wall_seconds:
            raise ValueError("set_seconds are part of wall_seconds")
        return self

    @property
    def generated(self) -> bool:
        """Whether a generator made the images, of which there is neither a set nor a share."""
        return self.rate is None and self.method not in ("real", "none")


def record_path(results: Path, experiment: str, cell: str) -> Path:
    """Return the path of the record of a cell."""
    return results / experiment / f"{cell}.json"


def write_record(path: Path, record: Record) -> None:
    """Write a record; the file is replaced as a whole."""
    write_json(path, record.model_dump(mode="json", by_alias=True, exclude_unset=True))


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        ZskdError: the file is missing or damaged, or the record is incomplete or contradicts itself.
    """
    values = read_json(path, "a record", _ADVICE)
    try:
        return Record.model_validate(values)
    except (ValidationError, ZskdError) as error:
        reason = first_mistake(error) if isinstance(error, ValidationError) else str(error)
        raise ZskdError(f"{path} is no complete record ({reason}): {_ADVICE}") from error


def read_records(results: Path, experiment: str) -> list[Record]:
    """Read all records of an experiment, sorted by path.

    Args:
        results: folder with one folder per experiment.
        experiment: name.

    Raises:
        ZskdError: there are none, or one is damaged or belongs to another experiment.
    """
    folder = results / experiment
    files = [path for path in sorted(folder.glob("*.json")) if _is_record(path)]
    if not files:
        raise ZskdError(f"there are no records of {experiment} in {folder}: zskd reproduce makes them")
    records = [read_record(path) for path in files]
    for path, record in zip(files, records, strict=True):
        if record.experiment != experiment:
            raise ZskdError(
                f"{path} is a record of {record.experiment}: move it to {results / record.experiment}"
            )
    return records


def _is_record(path: Path) -> bool:
    return read_json(path, "a record", _ADVICE).get("format") == FORMAT


def pack_mask(mask: CorrectMask) -> str:
    """Return a mask (n,) as base64 of eight images per byte, the first image in the highest bit."""
    return base64.b64encode(np.packbits(mask).tobytes()).decode("ascii")


def unpack_mask(text: str, n: int) -> CorrectMask:
    """Return the mask (n,) of a text from `pack_mask`.

    The text holds whole bytes, so an n that is too large by less than eight is not always noticed.

    Raises:
        ZskdError: the text is damaged or does not hold n images.
    """
    try:
        packed = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    except ValueError:
        raise ZskdError("the correct mask is damaged: it is no base64") from None
    if n < 0 or len(packed) != -(-n // 8):
        raise ZskdError(f"the correct mask has {len(packed)} bytes, which do not hold {n} images")
    mask = np.unpackbits(packed, count=n).astype(bool)
    if pack_mask(mask) != text:  # other characters, or a bit set after the last image
        raise ZskdError(f"the correct mask is damaged, or not that of {n} images")
    return mask
