"""How much of the initialisation of a copy is done, so that its counted work stays below a bound."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from zskd.distillation.initialisation.effort import most_work
from zskd.distillation.initialisation.importance import RULES, Rule
from zskd.distillation.initialisation.repair import Place
from zskd.distillation.initialisation.rows import POSITIONS

_MOST_ROWS = 2**28
"""Values of the teacher's outputs, at the positions that layers are fitted on, that are kept at most."""
_SCORED = 500
"""Images that channels are judged on at most, and attempts are compared on."""
_LEAST_WORK = 2 * 10**10
"""Multiply-adds that an initialisation may take in any case: fewer than for chains, as networks with many
small layers take longer for each."""
_CHOICE_PASSES = 4
"""Forward passes that a forward and a backward pass count as, and the products of what layers receive."""


@dataclass(frozen=True)
class Costs:
    """Multiply-adds of one image's forward pass."""

    teacher: int
    student: int


@dataclass(frozen=True)
class GraphPlan:
    """What an initialisation of a copy does."""

    rules: tuple[Rule, ...]
    """Rules that are tried for the choice of channels."""
    images: int
    """Number of images that layers are fitted on."""
    sweeps: tuple[tuple[Place, ...], ...]
    """Layers that are fitted on the same passes."""
    costs: Costs

    @property
    def scored(self) -> int:
        """Number of images that channels are judged on, and attempts are compared on."""
        return min(_SCORED, self.images)

    @property
    def choice(self) -> int:
        """Multiply-adds of the choice of channels, and of the teacher's logits on other images."""
        passes = _CHOICE_PASSES if self.rules else 0
        return self.scored * (passes + 1) * self.costs.teacher

    def fit(self, place: Place) -> int:
        """Multiply-adds of the fit of one layer."""
        rows = self.images * min(POSITIONS, place.positions)
        most = min(rows, place.inputs)
        return rows * place.inputs * (most * place.groups + place.outputs) + place.groups * most**3 // 3

    @property
    def passes(self) -> int:
        """Multiply-adds of the student's passes of one sweep, at most."""
        return self.images * self.costs.student

    @property
    def attempt(self) -> int:
        """Multiply-adds of one attempt but for its sweeps: the teacher's and the student's other passes."""
        return self.images * (self.costs.teacher + self.costs.student) + self.scored * self.costs.student

    @property
    def total(self) -> int:
        """All of it."""
        sweeps = sum(self.passes + sum(map(self.fit, sweep)) for sweep in self.sweeps)
        return self.choice + max(1, len(self.rules)) * (self.attempt + sweeps)


def plan_copy(places: Sequence[Place], costs: Costs, count: int, trained: int, *, chooses: bool) -> GraphPlan:
    """Return the fullest plan that takes at most as much work as `most_work` allows, or the least one.

    Args:
        places: layers that can be fitted.
        costs: of both networks.
        count: number of images that there are.
        trained: as for `most_work`.
        chooses: whether there are channels to choose.
    """
    values = sum(min(POSITIONS, place.positions) * place.outputs for place in places)
    count = min(count, max(1, _MOST_ROWS // max(1, values)))
    most = most_work(trained, costs.teacher, costs.student, _LEAST_WORK)
    full = GraphPlan(RULES if chooses else (), count, _sweeps(places, len(places)), costs)
    plan = full
    for rules, part, sweeps in _LESS:
        plan = replace(
            full,
            rules=full.rules[:rules],
            images=max(1, count // part),
            sweeps=_sweeps(places, min(sweeps, len(places))),
        )
        if plan.total <= most:
            break
    return plan


_ALL = 10**6
_LESS = (
    (len(RULES), 1, _ALL),
    (1, 1, _ALL),
    (1, 2, _ALL),
    (1, 2, 24),
    (1, 4, 24),
    (1, 4, 8),
    (1, 8, 8),
    (1, 16, 4),
    (1, 16, 1),
)
"""Rules, one part in so many of the images, and sweeps, from the fullest plan to the least."""


def _sweeps(places: Sequence[Place], count: int) -> tuple[tuple[Place, ...], ...]:
    """Divide layers into so many sweeps, of about as many each, in their order."""
    bounds = [len(places) * number // max(1, count) for number in range(count + 1)]
    return tuple(tuple(places[first:last]) for first, last in itertools.pairwise(bounds))
