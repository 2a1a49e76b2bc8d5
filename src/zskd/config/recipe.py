"""The settings of all stages of a run in one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from zskd.config.checks import LAST_SEED, Config, check_range
from zskd.config.data import DataConfig
from zskd.config.distillation import DistillConfig
from zskd.config.names import ControlName, MethodName, PresetName, StudentName
from zskd.config.registry import CONTROLS, METHODS, STUDENTS
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.config.training import TeacherConfig
from zskd.core.errors import ZskdError

MethodSettings = dict[str, float | bool | str]
"""Settings of one method: name -> value. The method checks them."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Config):
    """All settings of a run."""

    name: str = "run"
    """Name of the run; the default of `--out` is runs/NAME."""
    preset: PresetName = "default"
    """Preset: settings of a method that are the base of this recipe."""
    seed: int = 0
    """Seed of all random numbers."""
    method: MethodName = "zskd"
    """Method that makes the transfer set of the main arm: a name, or file.py:Name for your own."""
    method_settings: MethodSettings = field(default_factory=dict)
    """Settings of this method only: `--method-settings.spread 0.5`."""
    count: int | None = None
    """Number of images in a transfer set, noise included; absent: computed from `rate`."""
    rate: float | None = None
    """The same number in percent of the full training set, above 0 and at most 100."""
    budget: float | None = None
    """Minutes for the transfer sets and students of all arms, without the teacher. The measured speed of this
    machine then gives the number of training steps; if synthesis needs more than a quarter of the time,
    there are fewer images. Absent: no limit."""
    nominal_rates: dict[str, float] = field(default_factory=dict)
    """Published rates that differ from their true size: the reproduction's 25 % is 12,000 of 60,000, 20 %."""
    controls: tuple[ControlName, ...] = (
        "class_impressions",
        "noise_shapes",
        "noise_white",
    )
    """Further arms, of the same size, steps and augmentation as the main arm; none: `--empty-controls`."""
    held_out: int = 500
    """Number of held-out images of each kind, to measure the agreement of student and teacher."""
    student: StudentName = "half"
    """Student: `half` for a copy of the teacher with half the filters, a built-in network, or
    package.module:factory."""
    threads: int = 0
    """Threads of each training; 0: share the cores among parallel trainings and their helper processes. A
    shard always uses one thread."""
    workers: int = 0
    """Number of parallel processes for shards and students; 0 for one per core; 1 starts no other process.
    The results are the same for any number."""
    device: str = "auto"
    """Device: auto (a GPU if there is one), cpu, cuda, cuda:1."""
    rewrite: bool = True
    """Run a faster, equivalent network: batch-norm and pooling are fused into convolutions."""
    tensorboard: Path | None = None
    """Folder for TensorBoard event files with losses, accuracies and samples; needs the extra `tb`."""
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
        if not self.name or Path(self.name).name != self.name or self.name.startswith("."):
            raise ZskdError(f"--name is {self.name!r}: it must be a plain folder name")
        METHODS.check(self.method, "--method")
        STUDENTS.check(self.student, "--student")
        for control in self.controls:
            CONTROLS.check(control, "--controls")
        if len(set(self.controls)) != len(self.controls):
            raise ZskdError("--controls names an arm twice")
        for rate in self.nominal_rates.values():
            check_range("--nominal-rates", rate, 0, 100, above=True)
        self.check_range("seed", low=0, high=LAST_SEED)
        self.check_range("count", "held_out", low=1)
        self.check_range("threads", "workers", low=0)
        self.check_range("budget", low=0, above=True)
        self.check_range("rate", low=0, high=100, above=True)
        if self.count is not None and self.rate is not None:
            raise ZskdError("--count and --rate both set the size of the transfer set: give one of them")

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
