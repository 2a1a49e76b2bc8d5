"""All that determines a student, together with its teacher and its transfer set."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from zskd.config.checks import LAST_SEED, Config
from zskd.config.distillation import DistillConfig
from zskd.config.registry import STUDENTS


@dataclass(frozen=True, kw_only=True)
class StudentSpec(Config):
    """All that determines a student, together with its teacher and its transfer set.

    The number of threads and the device change rounding; the student's card records them.
    """

    student: str = "half"
    """A name of `STUDENTS`: `half`, `narrow:0.5`, a built-in network; or package.module:factory."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """Settings of the distillation."""

    def __post_init__(self) -> None:
        """Refuse an unknown student and a seed that is out of range."""
        super().__post_init__()
        STUDENTS.check(self.student, "--student")
        self.check_range("seed", low=0, high=LAST_SEED)

    @property
    def factory(self) -> str | None:
        """The user's code that makes the network; None for a built-in one."""
        return self.student if STUDENTS.is_code(self.student) else None

    def trained_with(self, images: bool) -> DistillConfig:
        """Return the settings of the training.

        Args:
            images: whether there is a transfer set. Where the generator needs none, the student is its
                control, which is trained without it.
        """
        if self.distill.needs_set or not images:
            return self.distill
        return replace(self.distill, generator=replace(self.distill.generator, share=0.0))

    def steps(self, count: int | None) -> int:
        """Return the number of steps on a set of `count` images; None: no set, and an epoch is one batch."""
        return self.distill.total_steps(self.distill.batch_size if count is None else count)
