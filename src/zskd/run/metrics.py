"""The metrics of a run: all its results, in the file that is written last."""

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
    Joules,
    Name,
    Percent,
    Processor,
    Seconds,
    Sha256,
    Versions,
    read_artefact,
)
from zskd.core.passes import Passes
from zskd.distillation.invariance import AskedChange
from zskd.evaluation.agreement import EstimateRecord
from zskd.evaluation.gain import Cost, Gain
from zskd.evaluation.statistics import Share
from zskd.run.arms import folder_name
from zskd.synthesis.outcome import outcome_of
from zskd.teacher.sources import SourceHashes
from zskd.transfer_set.dataset import TransferSet

METRICS = "metrics.json"
SOURCES = "sources.json"
"""The hashes of a run's sources: its first file, which tells that a folder is that of a run."""


def _holds_together(share: Share) -> Share:
    rising = (0.0, share.low, share.percent, share.high, 100.0)
    if any(low > high + _ROUNDING for low, high in pairwise(rising)):
        raise ValueError("a percentage must lie in its interval, and the interval in 0 to 100")
    if share.n < 1:
        raise ValueError("n must be at least 1")
    return share


_ROUNDING = 1e-9
"""Largest rounding error of the ends of an interval."""
Measured = Annotated[Share, AfterValidator(_holds_together)]


class TeacherMetrics(Artefact):
    """Results of the teacher."""

    parameters: AtLeastOne
    multiply_adds: Count
    """Of one image's forward pass."""
    sha256: Sha256
    """Fingerprint of its weights."""
    test_accuracy: Measured | None = None
    """Absent without data, as the next two."""
    test_accuracy_by_class: dict[str, Percent] | None = None
    validation_accuracy: Measured | None = None


class StudentMetrics(Artefact):
    """Results for the architecture of all students."""

    multiply_adds: Count
    """Of one image's forward pass."""


class ArmMetrics(Artefact):
    """Results of the student of one arm."""

    arm: Name
    title: str
    """Name of the arm in tables."""
    count: AtLeastOne
    """Number of training images."""
    agreement: dict[Name, Measured]
    """With the teacher, by kind of images."""
    estimated_agreement: EstimateRecord | None = None
    """With the teacher on real images, estimated without any; absent in files of older versions."""
    parameters: AtLeastOne
    sha256: Sha256 | None = None
    """Fingerprint of its weights; absent in files of older versions."""
    passes: Passes | None = None
    """Through teacher and student for its set and its training, by stage; absent in files of older versions,
    and where a part was made by one."""
    test_accuracy: Measured | None = None
    """Absent without data, as the next two."""
    test_accuracy_by_class: dict[str, Percent] | None = None
    validation_accuracy: Measured | None = None

    @property
    def main_kind(self) -> str:
        """The images that students are sorted by without data: impressions, or noise where there are none."""
        return "impressions" if "impressions" in self.agreement else next(iter(self.agreement))

    @property
    def main_agreement(self) -> Measured:
        """Agreement on them."""
        return self.agreement[self.main_kind]

    @property
    def main_result(self) -> Measured:
        """What students are sorted by: the accuracy, or without data this agreement."""
        return self.test_accuracy or self.main_agreement


class SizeMetrics(ArmMetrics):
    """Results of one of several students of the main arm."""

    student: Name
    """As it was named: `narrow:0.5`."""
    network: Name
    """The network that was made of the name: `resnet14(width=1.07)`."""
    cost: Cost
    """What it costs; `RunMetrics.gain` has its teacher's."""


class SetFacts(Artefact):
    """The facts of a transfer set that the metrics repeat; the fields are those of its manifest."""

    count: AtLeastOne
    mean_kl: float
    mean_steps: Annotated[float, Field(ge=0)] | None = None
    anchor_match: Fraction
    missed: Count | None = None
    dropped: Count | None = None
    optimised: Count | None = None
    """Images that were optimised, dropped ones included; absent in files of older versions, as the next."""
    outcome: str | None = None
    """The counts in words."""

    @classmethod
    def of(cls, made: TransferSet) -> SetFacts:
        """Return the facts of a complete set."""
        found, facts = outcome_of(made), cls.model_fields.keys() - {"optimised", "outcome"}
        of_manifest = {fact: getattr(made.manifest, fact) for fact in facts}
        return cls(**of_manifest, optimised=found.optimised, outcome=found.words)


class RunMetrics(Artefact):
    """All results of a run."""

    run: Name
    preset: str
    selection: Literal["last"] | None = None
    """Which weights are kept: always those of the last step. Written by older versions only."""
    student_steps: AtLeastOne
    data: str
    accuracy: str
    """`measured`, or why it was not."""
    teacher: TeacherMetrics
    student: StudentMetrics
    gain: Gain | None = None
    """What the student of the main arm costs beside its teacher; absent in files of older versions."""
    arms: Annotated[tuple[ArmMetrics, ...], Field(min_length=1)]
    """The method, then its controls."""
    sizes: tuple[SizeMetrics, ...] = ()
    """Several students of the main arm, its own first; none where it was the only one."""
    sets: dict[Name, SetFacts]
    """By arm; arms without a transfer set are absent."""
    seconds: dict[Name, Seconds]
    """By stage of the run."""
    joules: dict[Name, Joules] = Field(default_factory=dict)
    """By stage: energy of the machine's processors, of whatever ran on them. Without stages of which it is
    not known."""
    energy: str | None = None
    """`measured`, or why it was not; absent in files of older versions."""
    changes: tuple[AskedChange, ...] = ()
    """How the teacher answers changed images, where this chose the augmentation (`distill.changes`)."""
    passes: Passes | None = None
    """Of all sets, students and measurements, by stage; absent as for an arm. What only measures the speed
    is not counted."""
    seed: Count
    threads: AtLeastOne
    """Of the training of the main arm's student."""
    versions: Versions
    processor: Processor
    commit: str | None
    """Of the checkout; None where zskd was installed from a package."""
    command: str | None
    """Command line of the run; None from Python."""
    recipe_sha256: Sha256
    """Of its `identity`."""
    sources: SourceHashes

    @property
    def energy_known(self) -> bool:
        """Whether there are joules of every stage."""
        return bool(self.joules) and self.joules.keys() == self.seconds.keys()

    @property
    def students(self) -> dict[str, ArmMetrics]:
        """The results of all students, by the names of their folders."""
        found: dict[str, ArmMetrics] = {arm.arm: arm for arm in self.arms}
        for one in self.sizes[1:]:  # the first is that of the main arm
            found[folder_name(f"{one.arm}@{one.student}", found)] = one
        return found


def read_metrics(path: Path) -> RunMetrics:
    """Read the metrics of a run.

    Raises:
        ZskdError: the file is missing or damaged.
    """
    return read_artefact(path, RunMetrics, "the metrics of a run", "delete it and make the run again")


def metrics_of(folder: Path) -> RunMetrics | None:
    """Return the metrics of a finished run; None for another folder.

    Raises:
        ZskdError: the metrics are damaged.
    """
    # other programs write a metrics.json, too
    finished = all((folder / one).is_file() for one in (METRICS, SOURCES))
    return read_metrics(folder / METRICS) if finished else None
