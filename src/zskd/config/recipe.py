"""Everything that determines a run: the settings of all stages in one frozen dataclass."""

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

MethodSettings = dict[str, int | float | bool | str]
"""Settings of one method, by their names; the method checks them."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Config):
    """Everything that determines a run."""

    name: str = "run"
    """Name of the run; its folder is runs/NAME unless `--out` says otherwise."""
    preset: PresetName = "default"
    """Settings of the method that this recipe starts from."""
    seed: int = 0
    """Seed of everything random."""
    method: MethodName = "zskd"
    """How the transfer set of the main arm is made: a name, or file.py:Name for a method of your own."""
    method_settings: MethodSettings = field(default_factory=dict)
    """Settings of that method alone, by their names: `--method-settings.spread 0.5`."""
    count: int | None = None
    """Images in a transfer set, noise included; absent: taken from `rate`."""
    rate: float | None = None
    """The same as a percentage of the full training set, above 0 and at most 100."""
    budget: float | None = None
    """Minutes for making the transfer sets and training the students of all arms, from a teacher that is
    there. The number of steps then follows from the time that they take on this machine, and there are fewer
    images where a quarter of the time does not suffice for all; absent: as many as are set."""
    nominal_rates: dict[str, float] = field(default_factory=dict)
    """Published rates whose name is not their size: the reproduction's 25 % are 12,000 of 60,000, 20 %."""
    controls: tuple[ControlName, ...] = (
        "class_impressions",
        "noise_shapes",
        "noise_white",
    )
    """Arms that are run beside the main one with equal size, steps and augmentation; `--empty-controls` for
    none."""
    held_out: int = 500
    """Images of each kind made apart, to measure on them how far student and teacher agree."""
    student: StudentName = "half"
    """Student: `half` for a narrower copy of the teacher, a built-in network, or package.module:factory."""
    threads: int = 0
    """Threads of each training; 0: the cores, shared among those that run side by side and their helpers. A
    shard always uses one."""
    workers: int = 0
    """Processes that make shards or train students side by side; 0 for one per core; 1: no other process is
    started. What is made is the same for any number."""
    device: str = "auto"
    """Where networks run: auto for a GPU when there is one, cpu, cuda, cuda:1."""
    rewrite: bool = True
    """Run an equivalent network that is cheaper: convolutions take over their batch-norm and pooling."""
    tensorboard: Path | None = None
    """Folder for TensorBoard's event files (needs the extra `tb`): losses, accuracies, samples."""
    data: DataConfig = field(default_factory=DataConfig)
    """Real images."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """The teacher."""
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    """What the teacher is to answer."""
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    """How images are made."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """How the student learns."""

    def __post_init__(self) -> None:
        """Refuse unknown names and sizes that cannot be."""
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
            raise ZskdError("--count and --rate both say how large the transfer set is: give one of them")

    @property
    def teacher_seed(self) -> int:
        """Seed of the teacher's weights and of the order of its images."""
        return self.seed if self.teacher.seed is None else self.teacher.seed

    def size(self, train_size: int | None) -> int:
        """Return the number of images in a transfer set.

        Args:
            train_size: images in the full training set, where there is one.

        Raises:
            ZskdError: neither count nor rate, or a rate without a training set.
        """
        if self.count is not None:
            return self.count
        if self.rate is None:
            raise ZskdError("how large is the transfer set? give --count N, or --rate PERCENT")
        if train_size is None:
            raise ZskdError(
                "--rate is a percentage of the training set, and there is no data: give --count N"
            )
        rate = self.nominal_rates.get(f"{self.rate:g}", self.rate)
        return max(1, round(train_size * rate / 100))
