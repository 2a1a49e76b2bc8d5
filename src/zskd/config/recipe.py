"""The settings of all stages of a run in one frozen dataclass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from zskd.config.checks import LAST_SEED, Config, MethodSettings, as_fields, check_range
from zskd.config.data import DataConfig
from zskd.config.distillation import DistillConfig
from zskd.config.groups import MACHINE, RUN_DETAILS
from zskd.config.names import ControlName, EngineName, MethodName, PresetName, StudentName
from zskd.config.registry import CONTROLS, ENGINES, HALF, METHODS, STUDENTS
from zskd.config.sizes import read_number
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.config.training import TeacherConfig
from zskd.core.code import split_names
from zskd.core.errors import ZskdError

_CONTROLS = ("class_impressions", "noise_shapes", "noise_white")
_LEAST_HELD_OUT, _MOST_HELD_OUT = 20, 500
_MOST_THREADS = 4096


def read_controls(_type: object, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Return the controls that were typed; `none` alone is the empty list.

    Raises:
        ZskdError: there is no such control.
    """
    names = tuple(token.value for token in tokens)
    if names == ("none",):
        return ()
    for name in names:
        CONTROLS.check(name, "--controls")
    return names


def read_students(_type: object, tokens: Sequence[Token]) -> tuple[str, ...]:
    """Return the students that were typed, with commas or blanks between them."""
    return tuple(name for token in tokens for name in split_names(token.value))


def read_passes(_type: object, tokens: Sequence[Token]) -> int:
    """Return the limit of passes that was typed.

    Raises:
        ZskdError: it is no number.
    """
    return read_number(tokens[0].value, "--passes")


PassLimit = Annotated[int | None, Parameter(converter=read_passes, n_tokens=1)]


@dataclass(frozen=True, kw_only=True)
class Recipe(Config):
    """All settings of a run."""

    name: Annotated[str, Parameter(group=RUN_DETAILS)] = "run"
    """Name of the run. The default of `--out` is runs/NAME."""
    preset: Annotated[PresetName, Parameter(show_default=False)] = "default"
    """Base of the settings; absent: chosen for the teacher. Most are those of a published method."""
    seed: int = 0
    """Seed of all random numbers."""
    method: Annotated[MethodName, Parameter(show_default=False)] = "zskd"
    """Method of the transfer set, or file.py:Name. The set is that of the main arm. Absent: that of the
    preset."""
    images: Annotated[Path | None, Parameter(group=RUN_DETAILS)] = None
    """Unlabelled pictures to train the student on as well: a folder, Parquet or WebDataset files. Sub-folders
    are read, too. Another arm is trained without them."""
    few: Annotated[Path | None, Parameter(group=RUN_DETAILS)] = None
    """Folder of a few real pictures, up to 20 of each class, which are shown often and changed strongly.
    With `distill.label_weight` its folders must have the names of the classes."""
    method_settings: Annotated[MethodSettings, Parameter(group=RUN_DETAILS)] = field(default_factory=dict)
    """Settings of this method only: `--method-settings.spread 0.5`."""
    count: int | None = None
    """Number of images in a transfer set, noise included. Absent: from `rate`, or chosen for the teacher."""
    rate: float | None = None
    """The same number in percent of the full training set. It is above 0 and at most 100."""
    budget: float | None = None
    """Minutes for the sets and students of all arms. The teacher takes its own time. The measured speed of
    this machine gives the number of training steps; if synthesis needs more than a quarter of the time, there
    are fewer images. Absent: no limit."""
    passes: PassLimit = None
    """Teacher passes for all sets and students: 200k. Forward and backward ones count; sets take a quarter at
    most. Unlike minutes, they give the same numbers of images and steps everywhere. Absent: no limit."""
    nominal_rates: Annotated[dict[str, float], Parameter(group=RUN_DETAILS)] = field(default_factory=dict)
    """Published rates that differ from their true size: the reproduction's 25 % is 12,000 of 60,000, 20 %."""
    controls: Annotated[
        tuple[ControlName, ...] | None,
        Parameter(negative="--empty-controls", converter=read_controls, n_tokens=-1),
    ] = None
    """Arms to compare with, or none. They have the same size, steps and augmentation as the main arm. Absent:
    class_impressions, noise_shapes and noise_white, and none without data to compare the arms on."""
    held_out: Annotated[int | None, Parameter(group=RUN_DETAILS)] = None
    """Number of held-out images of each kind, to measure the agreement of student and teacher. Absent: as
    many as `count`, from 20 to 500."""
    student: Annotated[StudentName, Parameter(show_default=False)] = "half"
    """half, narrow:0.5, budget:200k, resnet8, net.py:build. The first is a copy of the teacher with half the
    filters; `auto` shows three sizes. Arguments may follow a name: resnet8(width=0.5). Absent: chosen for the
    teacher."""
    students: Annotated[
        tuple[StudentName, ...], Parameter(negative=(), converter=read_students, n_tokens=-1)
    ] = ()
    """Several students to choose from: `narrow:0.5,resnet8`. All are trained on the set of the main arm, and
    the page of the run shows the agreement and the time of each. The first takes the place of `student`, and
    the controls are trained with it."""
    threads: Annotated[int, Parameter(group=MACHINE)] = 0
    """Threads of each training; 0: its share of the cores. Parallel trainings and their helper processes
    share them; beside a generator, an image bank or replay there are no helpers. A shard always uses one
    thread."""
    workers: Annotated[int, Parameter(group=MACHINE)] = 0
    """Number of parallel processes; 0 for one per core. They make shards and students; 1 starts no other
    process. The results are the same for any number."""
    engine: Annotated[EngineName, Parameter(group=RUN_DETAILS)] = "local"
    """Where shards and students are made: local, ray, ray:HOST:PORT. The last two are a Ray cluster, and
    `workers` are its tasks. The results are the same everywhere."""
    device: Annotated[str, Parameter(group=MACHINE)] = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1."""
    rewrite: Annotated[bool, Parameter(group=RUN_DETAILS)] = True
    """Run faster, equivalent networks. Batch-norm and pooling are fused into convolutions."""
    tensorboard: Annotated[Path | None, Parameter(group=RUN_DETAILS)] = None
    """Folder for TensorBoard event files. They hold losses, accuracies and samples; needs the extra `tb`."""
    data: DataConfig = field(default_factory=DataConfig)
    """Real images."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """The teacher."""
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    """The soft targets."""
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    """Synthesis of the images."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """Training of the student."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        super().__post_init__()
        object.__setattr__(self, "method_settings", as_fields(self.method_settings))
        if not self.name or Path(self.name).name != self.name or self.name.startswith("."):
            raise ZskdError(f"--name is {self.name!r}: it must be a plain folder name")
        METHODS.check(self.method, "--method")
        ENGINES.check(self.engine, "--engine")
        self._check_students()
        controls = self.controls or ()
        for control in controls:
            CONTROLS.check(control, "--controls")
        if len(set(controls)) != len(controls):
            raise ZskdError("--controls names an arm twice")
        for rate in self.nominal_rates.values():
            check_range("--nominal-rates", rate, 0, 100, above=True)
        if self.is_whole:
            self._check_pictures()
        self.check_range("seed", low=0, high=LAST_SEED)
        self.check_range("count", "held_out", low=1)
        self.check_range("threads", low=0, high=_MOST_THREADS)
        self.check_range("workers", low=0)
        self.check_range("budget", low=0, above=True)
        self.check_range("passes", low=1)
        if self.budget is not None and self.passes is not None:
            raise ZskdError(
                "--budget and --passes both set the numbers of images and steps: give one of them"
            )
        self.check_range("rate", low=0, high=100, above=True)
        if self.count is not None and self.rate is not None:
            raise ZskdError("--count and --rate both set the size of the transfer set: give one of them")

    @property
    def picture_folders(self) -> dict[str, Path]:
        """The given folders of pictures, by option: "images" and "few"."""
        given = {"images": self.images, "few": self.few}
        return {kind: folder for kind, folder in given.items() if folder is not None}

    def _check_pictures(self) -> None:
        """Refuse pictures where they cannot be used.

        Raises:
            ZskdError: labels are needed, or other sources make all images.
        """
        named = " and ".join(f"--{kind}" for kind in self.picture_folders)
        if named and not round(self.distill.room_of_set * self.distill.batch_size):
            others = " or ".join(self.distill.options_of_sources)
            raise ZskdError(f"{named} stand beside a transfer set: lower {others}")
        shares = self.distill.pictures.shares
        together = sum(shares[kind] for kind in self.picture_folders)
        check_range("--distill.pictures.share and few-share together", together, 0, 1)
        if self.images is not None and self.distill.label_weight:
            raise ZskdError("--distill.label-weight must be 0 with --images: they have no labels; give --few")

    def _check_students(self) -> None:
        """Check the names of the students, and take the first of several as the run's own.

        Raises:
            ZskdError: an unknown name, a name that stands twice, or another student beside several.
        """
        STUDENTS.check(self.student, "--student")
        for name in self.students:
            STUDENTS.check(name, "--students")
        if len(set(self.students)) != len(self.students):
            raise ZskdError("--students names a student twice")
        if self.students and self.student not in (HALF, self.students[0]):
            raise ZskdError(
                f"--student is {self.student} and the first of --students is {self.students[0]}: give one of "
                "these options"
            )
        if self.students:
            object.__setattr__(self, "student", self.students[0])

    @classmethod
    def checked(cls, name: str, value: Any) -> Any:
        """Return a value, converted to the type of a field; `passes` may be written as 200k."""
        if name == "passes" and isinstance(value, str):
            value = read_number(value, "--passes")
        return super().checked(name, value)

    @property
    def every_student(self) -> tuple[StudentName, ...]:
        """The students that are trained on the set of the main arm, the run's own first."""
        return self.students or (self.student,)

    @property
    def control_arms(self) -> tuple[ControlName, ...]:
        """The controls that are run: as set, or the default."""
        if self.controls is not None:
            return self.controls
        return () if self.data.name == "none" else _CONTROLS

    @property
    def held_out_count(self) -> int:
        """Number of held-out images of each kind: as set, or the default."""
        if self.held_out is not None:
            return self.held_out
        return _MOST_HELD_OUT if self.count is None else min(_MOST_HELD_OUT, max(_LEAST_HELD_OUT, self.count))

    @property
    def teacher_seed(self) -> int:
        """Seed of the teacher's initial weights and of the order of its training images."""
        return self.seed if self.teacher.seed is None else self.teacher.seed

    def size(self, train_size: int | None) -> int:
        """Return the number of images in a transfer set.

        Args:
            train_size: images in the full training set; None without data.

        Raises:
            ZskdError: neither count nor rate is given, or there is a rate without a training set.
        """
        if self.count is not None:
            return self.count
        if self.rate is None:
            raise ZskdError("the size of the transfer set is missing: give --count N, or --rate PERCENT")
        if train_size is None:
            raise ZskdError(
                "--rate is a percentage of the training set, and there is no data: give --count N"
            )
        rate = self.nominal_rates.get(f"{self.rate:g}", self.rate)
        return max(1, round(train_size * rate / 100))
