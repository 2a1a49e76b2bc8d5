"""What images cost where only some of them are optimised, and a sample is not like the set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zskd.synthesis.spec import SetSpec


@dataclass(frozen=True)
class Cost:
    """Of an image, in seconds of one core or in passes of the teacher."""

    plain: float
    """Without its optimisation."""
    optimising: float
    """Of its optimisation, for the images that are optimised."""

    @staticmethod
    def total(costs: Iterable[Cost]) -> Cost:
        """Return the cost of an image in each of several sets."""
        known = list(costs)
        return Cost(sum(one.plain for one in known), sum(one.optimising for one in known))

    def of(self, spec: SetSpec, classes: int, indices: range | None = None) -> float:
        """Return the mean cost of some consecutive images of a set, at least one; None: of all."""
        indices = range(spec.count) if indices is None else indices
        return self.plain + self.optimising * spec.planned(indices, classes) / len(indices)

    def measured(self, total: float, images: int, optimised: int) -> Cost:
        """Return the cost at which some images took so much together; plain ones take what they took here."""
        if not (self.optimising and optimised):
            return Cost(total / images, 0.0)
        plain = min(self.plain, total / images)
        return Cost(plain, (total - images * plain) / optimised)
