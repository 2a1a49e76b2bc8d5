"""All that determines a student, together with its teacher and its transfer set."""

from __future__ import annotations

from dataclasses import dataclass, field

from zskd.config.checks import LAST_SEED, check_range
from zskd.config.distillation import DistillConfig


@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """All that determines a student, together with its teacher and its transfer set.

    The number of threads and the device round sums differently; the student's card tells them.
    """

    student: str = "half"
    """`half` for a narrower copy of the teacher, a built-in name, or package.module:factory."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """Settings of the distillation."""

    def __post_init__(self) -> None:
        """Refuse a seed that cannot be."""
        check_range("seed", self.seed, 0, LAST_SEED)

    @property
    def factory(self) -> str | None:
        """The user's code that makes the network, where one does."""
        return self.student if ":" in self.student else None

    def steps(self, count: int | None) -> int:
        """Return the steps that it takes on a set of `count` images; without a set a pass is one batch."""
        return self.distill.total_steps(self.distill.batch_size if count is None else count)
