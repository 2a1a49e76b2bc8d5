"""Records: what one cell of an experiment found, as a JSON file that says all that the tables print.

A record that lacks something, or whose parts contradict each other, is refused.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, model_validator

from zskd.core.artefact import Artefact, AtLeastOne, Count, Name, Percent, Seconds, Sha256, first_mistake
from zskd.core.errors import ZskdError
from zskd.core.files import read_json, write_json
from zskd.core.types import CorrectMask

FORMAT: Final = "zskd-record/1"
LEDGER = "ledger.jsonl"


def _names_torch(versions: dict[str, str]) -> dict[str, str]:
    if not {"zskd", "torch", "python"} <= versions.keys():
        raise ValueError("the versions of zskd, torch and python belong into a record")
    return versions


class Reported(Artefact):
    """What somebody published for the same arm and rate."""

    value: Percent
    source: Name


class Record(Artefact):
    """One cell: an arm at a rate with a seed, measured once."""

    format: Literal["zskd-record/1"]
    experiment: str
    cell: str
    """Name of the cell; the record's file is called so."""
    key: Sha256
    """Hash of everything that determines the cell."""
    dataset: str
    arm: str
    title: str
    """The arm as tables call it."""
    preset: str
    method: str
    """How the images were made; `real` for real ones, `none` for the teacher itself."""
    augmented: bool
    """Whether the student saw changed images."""
    rate: Annotated[float, Field(gt=0, le=100)] | None
    """Percentage of the training set; None where the arm has no rate."""
    count: AtLeastOne
    """Images learned from."""
    unique_images: AtLeastOne
    """How many of them differ."""
    seed: Count
    recipe_sha256: Sha256
    teacher_sha256: Sha256
    student_sha256: Sha256
    student: str
    """Its architecture."""
    student_parameters: AtLeastOne
    student_steps: AtLeastOne
    selection: Literal["last"]
    """Which weights are kept: those of the last step. Nothing is ever chosen on test images."""
    test_accuracy: Percent
    test_images: AtLeastOne
    test_hits: str
    """Which test images are recognised, packed: for McNemar's test."""
    teacher_accuracy: Percent
    teacher_agreement: Percent
    """Share of the test images that student and teacher give the same class."""
    reported: Reported | None
    teacher_forwards: Count
    """Images that the teacher was asked about, each time that it was."""
    teacher_backwards: Count
    """How many of these with a gradient."""
    wall_seconds: Seconds
    """Time for this cell alone; of a set that several cells share, the part that is its own."""
    set_seconds: Seconds
    """The part of it that went into the images."""
    workers: AtLeastOne
    """Processes that worked side by side while this was timed."""
    threads: AtLeastOne
    versions: Annotated[dict[str, str], AfterValidator(_names_torch)]
    cpu: str
    cores: AtLeastOne
    commit: str | None
    """Of the checkout; None where zskd was installed from a package, whose version then tells."""
    command: Name
    """Makes this cell again and compares."""
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Record:
        hits = unpack_mask(self.test_hits, self.test_images)
        if abs(100 * int(hits.sum()) / self.test_images - self.test_accuracy) > 1e-6:
            raise ValueError("test_hits and test_accuracy tell different things")
        if self.unique_images > self.count:
            raise ValueError("more unique images than images")
        if self.set_seconds > self.wall_seconds:
            raise ValueError("set_seconds are part of wall_seconds")
        return self


def record_path(results: Path, experiment: str, cell: str) -> Path:
    """Return where the record of a cell lies."""
    return results / experiment / f"{cell}.json"


def write_record(path: Path, record: Record) -> None:
    """Write a record as a whole file."""
    write_json(path, record.model_dump(mode="json"))


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        ZskdError: missing, damaged, incomplete, or contradicting itself.
    """
    values = read_json(path, "a record")
    try:
        return Record.model_validate(values)
    except (ValidationError, ZskdError) as error:
        reason = first_mistake(error) if isinstance(error, ValidationError) else str(error)
        raise ZskdError(f"{path} is no complete record ({reason}): delete it, run its cell again") from error


def read_records(results: Path, experiment: str) -> list[Record]:
    """Read all records of an experiment, sorted by path.

    Args:
        results: with one folder per experiment.
        experiment: its name.

    Raises:
        ZskdError: there are none, or one is damaged or of another experiment.
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
    return read_json(path, "a record").get("format") == FORMAT


def pack_mask(mask: CorrectMask) -> str:
    """Return the hits as base64 of eight images per byte, the first image in the highest bit."""
    return base64.b64encode(np.packbits(mask).tobytes()).decode("ascii")


def unpack_mask(text: str, n: int) -> CorrectMask:
    """Return the n hits (n,) that `pack_hits` made the text of.

    A length is only known to the byte, so that an n too large by less than eight can go unnoticed.

    Raises:
        ZskdError: the text is damaged or not that of n hits.
    """
    try:
        packed = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    except ValueError:
        raise ZskdError("the record's hits are damaged: they are no base64; measure again") from None
    if n < 0 or len(packed) != -(-n // 8):
        raise ZskdError(f"the record's hits are {len(packed)} bytes, which do not hold {n} images")
    mask = np.unpackbits(packed, count=n).astype(bool)
    if pack_mask(mask) != text:  # strange letters, or a bit set behind the last image
        raise ZskdError(f"the record's hits are damaged, or not those of {n} images; measure again")
    return mask
