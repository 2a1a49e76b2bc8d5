"""The metrics of a run: all that it found, in the file that is written last."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from zskd.core.artefact import (
    Artefact,
    AtLeastOne,
    Count,
    Fraction,
    Name,
    Percent,
    Processor,
    Seconds,
    Sha256,
    Versions,
    read_artefact,
)
from zskd.evaluation.agreement import EstimateRecord
from zskd.evaluation.statistics import Share
from zskd.teacher.sources import SourceHashes
from zskd.transfer_set.manifest import Manifest

METRICS = "metrics.json"


def _holds_together(share: Share) -> Share:
    rising = (0.0, share.low, share.percent, share.high, 100.0)
    if any(low > high + _ROUNDING for low, high in pairwise(rising)):
        raise ValueError("a percentage lies inside its interval, and that inside 0 to 100")
    if share.n < 1:
        raise ValueError("n must be at least 1")
    return share


_ROUNDING = 1e-9
"""The ends of an interval are rounded in their last digits."""
Measured = Annotated[Share, AfterValidator(_holds_together)]


class TeacherMetrics(Artefact):
    """What was found of the teacher."""

    parameters: AtLeastOne
    multiply_adds: Count
    """Of one image's forward pass."""
    sha256: Sha256
    """Its fingerprint."""
    test_accuracy: Measured | None = None
    """Absent, as the next two, where there were no data."""
    test_accuracy_by_class: dict[str, Percent] | None = None
    validation_accuracy: Measured | None = None


class StudentMetrics(Artefact):
    """What was found of the architecture that all students have."""

    multiply_adds: Count
    """Of one image's forward pass."""


class ArmMetrics(Artefact):
    """What was found of one arm's student."""

    arm: Name
    title: str
    """The arm as tables call it."""
    count: AtLeastOne
    """Images that it learned from."""
    agreement: dict[Name, Measured]
    """With the teacher, by the kind of the images."""
    estimated_agreement: EstimateRecord | None = None
    """With the teacher on real images, estimated without any; runs of before it was told have none."""
    parameters: AtLeastOne
    test_accuracy: Measured | None = None
    """Absent, as the next two, where there were no data."""
    test_accuracy_by_class: dict[str, Percent] | None = None
    validation_accuracy: Measured | None = None


class SetFacts(Artefact):
    """What the metrics tell of a transfer set; the fields are those of its manifest."""

    count: AtLeastOne
    mean_kl: float
    mean_steps: Annotated[float, Field(ge=0)] | None = None
    anchor_match: Fraction
    missed: Count | None = None
    dropped: Count | None = None

    @classmethod
    def of(cls, manifest: Manifest) -> SetFacts:
        """Return the facts of a complete set."""
        return cls(**{fact: getattr(manifest, fact) for fact in cls.model_fields})


class RunMetrics(Artefact):
    """All that a run found."""

    run: Name
    preset: str
    selection: Literal["last"] | None = None
    """Which weights are kept; runs of before there was no choice tell it."""
    student_steps: AtLeastOne
    data: str
    accuracy: str
    """`measured`, or why it was not."""
    teacher: TeacherMetrics
    student: StudentMetrics
    arms: Annotated[tuple[ArmMetrics, ...], Field(min_length=1)]
    """The method, and its controls behind it."""
    sets: dict[Name, SetFacts]
    """By the arms that learned from one."""
    seconds: dict[Name, Seconds]
    """By the stages of the run."""
    seed: Count
    threads: AtLeastOne
    """Of each student's training."""
    versions: Versions
    processor: Processor
    commit: str | None
    """Of the checkout; None where zskd was installed from a package."""
    command: str | None
    """How the run was started; None from Python."""
    recipe_sha256: Sha256
    """Of its `identity`."""
    sources: SourceHashes


def read_metrics(path: Path) -> RunMetrics:
    """Read the metrics of a run.

    Raises:
        ZskdError: missing or damaged.
    """
    return read_artefact(path, RunMetrics, "the metrics of a run")
