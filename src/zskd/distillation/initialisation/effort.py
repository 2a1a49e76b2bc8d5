"""How much work an initialisation from the teacher may take, counted in multiply-adds.

Work is counted and not timed, so that the same settings give the same bytes on a busy machine and on a free
one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from zskd.core.progress import Progress, Task
from zskd.distillation.initialisation.elimination import may_eliminate
from zskd.distillation.initialisation.ridge import WeightedLayer, rows_of_image, weighted_layer

_SHARE = 0.1
"""Share of the training's multiply-adds that the initialisation may take, …"""
_LEAST_WORK = 10**11
"""… but at least so many, unless told otherwise: about ten seconds of one core."""
_STUDENT_PASSES = 3
"""Forward passes that a training step of the student counts as: one forward, two for the gradients."""
_UNIT = 10**9
"""Multiply-adds of one unit of progress."""


@dataclass(frozen=True)
class Effort:
    """What an initialisation does; less of it where the work is bounded."""

    attempts: int = 4
    """Attempts on different images; the best one is used."""
    part: int = 1
    """One part in so many of the images is used."""
    judged: int = 300
    """Images that an elimination of channels is judged on."""
    eliminates: bool = True
    """Whether channels of narrow layers are chosen by elimination; else like those of wide layers."""
    exactly: bool = True
    """Whether eliminations solve anew for their best candidates."""


EFFORTS = (
    Effort(),
    Effort(exactly=False),
    Effort(exactly=False, judged=100),
    Effort(exactly=False, judged=100, attempts=2),
    Effort(exactly=False, judged=100, attempts=1),
    *(Effort(exactly=False, attempts=1, eliminates=False, part=part) for part in (1, 2, 4, 8)),
)
"""From the fullest to the least, which is made in any case."""


def most_work(trained: int, teacher: int, student: int, least: int = _LEAST_WORK) -> int:
    """Return how many multiply-adds an initialisation may take: a tenth of the training's.

    Args:
        trained: images that the student will be trained on, counted at every step.
        teacher: multiply-adds of the teacher's forward pass of one image.
        student: of the student's.
        least: so many in any case.
    """
    return max(least, int(_SHARE * trained * (teacher + _STUDENT_PASSES * student)))


@dataclass(frozen=True)
class LayerWork:
    """Multiply-adds for one layer of a chain, in one attempt."""

    passes: int
    """Passes of the teacher, and what the choice of channels needs once."""
    candidate: int
    """One candidate of an elimination."""
    rounds: tuple[int, ...]
    """Candidates in each round of it."""
    rows: int
    """Rows that the layer is fitted on."""
    fit: int
    """The least-squares fit."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.passes + self.candidate * sum(self.rounds) + self.fit


@dataclass(frozen=True)
class Plan:
    """What an initialisation of a chain does, and the work that it takes."""

    effort: Effort
    images: int
    """Number of images of each attempt."""
    layers: dict[int, LayerWork]
    """Work of one attempt by the numbers of the layers."""

    @property
    def total(self) -> int:
        """Multiply-adds of all attempts."""
        return self.effort.attempts * sum(layer.total for layer in self.layers.values())


def plan_chain(
    teacher: nn.Sequential,
    student: nn.Sequential,
    image: Tensor,
    count: int,
    trained: int,
    efforts: Sequence[Effort] = EFFORTS,
) -> Plan:
    """Return the fullest effort that takes at most as much work as `most_work` allows.

    Args:
        teacher: a chain of layers in evaluation mode.
        student: a narrower copy.
        image: one normalised image (1, C, H, W).
        count: number of images that there are.
        trained: as for `most_work`.
        efforts: to choose from, the fullest first; the last is taken where none is below the bound.
    """
    positions: dict[int, int] = {}
    for index, layer in enumerate(teacher):
        image = layer(image.clone())
        if isinstance(layer, WeightedLayer):
            positions[index] = image[0, 0].numel()
    passes = [
        sum(weighted_layer(chain, index).weight.numel() * at for index, at in positions.items())
        for chain in (teacher, student)
    ]
    for effort in efforts:
        images = max(1, count // effort.part)
        plan = Plan(effort, images, _layers_work(teacher, student, positions, images, effort))
        if plan.total <= most_work(trained, *passes):
            break
    return plan


def _layers_work(
    teacher: nn.Sequential, student: nn.Sequential, positions: dict[int, int], images: int, effort: Effort
) -> dict[int, LayerWork]:
    """Return the work for each layer; `positions` are numbers of output pixels."""
    cost = {index: weighted_layer(teacher, index).weight.numel() * at for index, at in positions.items()}
    work = {}
    for index, following in itertools.zip_longest(positions, list(positions)[1:]):
        layer, width = weighted_layer(student, index), len(weighted_layer(teacher, index).weight)
        kept, size = len(layer.weight), layer.weight[0].numel()
        rounds: tuple[int, ...] = ()
        passes, candidate = (images + min(images, effort.judged)) * cost[index], 0
        if kept < width:
            then = weighted_layer(teacher, following)
            inputs, outputs = then.weight[0].numel(), len(then.weight)
            if effort.eliminates and may_eliminate(width, then):
                rounds = tuple(range(width, kept, -1))
                rest = sum(value for number, value in cost.items() if number >= following)
                candidate = min(images, effort.judged) * rest + inputs // width * inputs * outputs
                if effort.exactly:  # at most, each candidate is solved for anew and judged again
                    candidate += min(images, effort.judged) * rest + inputs**2 * (inputs // 3 + 2 * outputs)
                removal = inputs // width * inputs**2
                rows = images * rows_of_image(then, positions[following])
                passes += rows * inputs**2 + inputs**3 + len(rounds) * removal
            else:
                passes += images * positions[index] * width**2 + kept * width * inputs * outputs
        rows = images * rows_of_image(layer, positions[index])
        fit = 2 * images * size * kept * positions[index]
        fit += rows * size * (min(rows, size) + kept) + min(rows, size) ** 3 // 3
        work[index] = LayerWork(passes, candidate, rounds, rows, fit)
    return work


class Work:
    """Reports counted work as progress."""

    def __init__(self, task: Task) -> None:
        self._task, self._spent = task, 0

    def spend(self, count: int, each: int = 1) -> None:
        """Report `count` further pieces of work, of so many multiply-adds each."""
        before, self._spent = self._spent, self._spent + count * each
        self._task.advance(self._spent // _UNIT - before // _UNIT)


@contextmanager
def counted(progress: Progress, title: str, total: int) -> Iterator[Work]:
    """Report a task of `total` multiply-adds."""
    with progress.task(title, max(1, total // _UNIT), "billion multiply-adds") as task:
        yield Work(task)
