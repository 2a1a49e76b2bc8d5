"""Passes through networks, counted where they happen.

An image that goes through a network is one pass forward; its gradient, when it has come back through the
network, is one pass backward. Every image of a batch counts, also one that only fills the batch. What is run
to measure speed or to find out what a network is does not count: it is outside of a stage.

    with counting("distillation", teacher=teacher) as tally:
        ...
    tally.passes()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Literal

from torch import Tensor

from zskd.core.artefact import Artefact, Count, Name

Stage = Literal[
    "synthesis",
    "labelling",
    "initialisation",
    "distillation",
    "generator",
    "image_bank",
    "batch_norm",
    "evaluation",
]
"""What passes are for: images made, outputs for finished images, a student's first weights, its training, the
steps of a generator, of an image bank, statistics of batch-norm, measurements."""
MAKING: tuple[Stage, ...] = (
    "synthesis",
    "labelling",
    "distillation",
    "generator",
    "image_bank",
    "batch_norm",
)
"""Stages that a budget of passes limits."""


class StagePasses(Artefact):
    """Images that went through the networks in one stage."""

    teacher_forward: Count
    teacher_backward: Count
    student_forward: Count
    student_backward: Count

    @property
    def teacher(self) -> int:
        """Forward and backward passes of the teacher."""
        return self.teacher_forward + self.teacher_backward

    @property
    def student(self) -> int:
        """Forward and backward passes of students."""
        return self.student_forward + self.student_backward


Passes = dict[Name, StagePasses]
"""By stage, in the order in which they were first used."""
_FIELDS = tuple(StagePasses.model_fields)
_TEACHER, _STUDENT = 0, 2
"""First of the two fields of each network."""


class Tally:
    """Numbers of passes by stage, which grow."""

    def __init__(self) -> None:
        self._stages: dict[str, list[int]] = {}
        self.total = 0
        """All passes, of both networks and in both directions."""

    def add(self, stage: str, field: int, images: int) -> None:
        """Add passes of one kind; `field` is its place in `StagePasses`."""
        counts = self._stages.get(stage)
        if counts is None:
            counts = self._stages[stage] = [0] * len(_FIELDS)
        counts[field] += images
        self.total += images

    def include(self, passes: Mapping[str, StagePasses]) -> None:
        """Add passes that were counted elsewhere."""
        for stage, counts in passes.items():
            for field, name in enumerate(_FIELDS):
                self.add(stage, field, getattr(counts, name))

    def passes(self) -> Passes:
        """Return the numbers so far."""
        return {
            stage: StagePasses(**dict(zip(_FIELDS, counts, strict=True)))
            for stage, counts in self._stages.items()
        }


class counting:
    """Counts the passes inside a block; blocks around it count them too.

    It costs microseconds for each pass of a batch. Only `Classifier` reports its passes here.

    Args:
        stage: what the passes are for; None: as in the block around this one. Without any, nothing counts.
        teacher: the network that is the teacher; without one, as in the block around this one. All other
            networks are students.
    """

    def __init__(self, stage: Stage | None = None, *, teacher: object = None) -> None:
        self._stage = stage
        self._teacher = teacher
        self._tallies: tuple[Tally, ...] = ()

    def __enter__(self) -> Tally:
        """Begin to count."""
        tally = Tally()
        if _open:
            around = _open[-1]
            self._stage = self._stage or around._stage
            self._teacher = around._teacher if self._teacher is None else self._teacher
            self._tallies = (*around._tallies, tally)
        else:
            self._tallies = (tally,)
        _open.append(self)
        return tally

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count no longer; a backward pass still to come belongs to its forward pass."""
        _open.pop()

    def add(self, network: object, forward: int, backward: int) -> None:
        """Count passes."""
        if self._stage is not None:
            field = _TEACHER if network is self._teacher else _STUDENT
            _add(self._tallies, self._stage, field, forward)
            _add(self._tallies, self._stage, field + 1, backward)

    def count(self, network: object, inputs: Tensor, outputs: Tensor) -> None:
        """Count a pass forward, and the one backward when it happens."""
        if self._stage is None:
            return
        field, images = _TEACHER if network is self._teacher else _STUDENT, len(inputs)
        _add(self._tallies, self._stage, field, images)
        if not outputs.requires_grad:
            return
        # a gradient that reaches the inputs may begin at an inner layer; another begins at the outputs
        last = inputs if inputs.requires_grad else outputs
        back = partial(_add, self._tallies, self._stage, field + 1, images)
        last.register_hook(back)  # type: ignore[no-untyped-call]


class uncounted(counting):
    """A block whose passes do not count, whatever is around it."""

    def __enter__(self) -> Tally:
        """Begin to count nothing."""
        _open.append(self)
        return Tally()


_open: list[counting] = []
"""Blocks that are entered, the innermost last."""


def _add(tallies: Iterable[Tally], stage: str, field: int, images: int, _gradient: Any = None) -> None:
    for tally in tallies:
        tally.add(stage, field, images)


def count_pass(network: object, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Report a forward pass, and return its outputs.

    Args:
        network: that ran.
        inputs: made for this pass alone (N, …): only its gradient reaches them.
        outputs: of the pass; not changed.
    """
    if _open:
        _open[-1].count(network, inputs, outputs)
    return outputs


def count_images(network: object, *, forward: int = 0, backward: int = 0) -> None:
    """Report passes that no `Classifier` sees: of layers that are run one at a time, or of a gradient that
    ends at an inner layer."""
    if _open:
        _open[-1].add(network, forward, backward)


def count_elsewhere(passes: Mapping[str, StagePasses]) -> None:
    """Report passes that were counted in another process, or before an interruption."""
    for tally in _open[-1]._tallies if _open else ():
        tally.include(passes)


def sum_passes(parts: Iterable[Mapping[str, StagePasses]]) -> Passes:
    """Return the sum of several counts."""
    tally = Tally()
    for one in parts:
        tally.include(one)
    return tally.passes()


def sum_known(parts: Iterable[Mapping[str, StagePasses] | None]) -> Passes | None:
    """Return the sum of several counts; None where one of them is not known."""
    known = list(parts)
    return None if None in known else sum_passes(one for one in known if one is not None)


def all_in(stage: Stage, passes: Mapping[str, StagePasses]) -> Passes:
    """Return the passes of all stages as those of one."""
    return sum_passes({stage: counts} for counts in passes.values())


def teacher_passes(passes: Mapping[str, StagePasses]) -> int:
    """Return the forward and backward passes of the teacher in the stages that make a student."""
    return sum(passes[stage].teacher for stage in MAKING if stage in passes)
