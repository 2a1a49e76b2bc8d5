"""Which stage of the student is compared with which stage of the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, TypeVar

from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier
from zskd.models.stages import Stage, find_convolutions, find_stages

_MOST_PAIRS = 4
"""Pairs of stages of a resolution at most, the last ones: early features are large and tell little."""
_DEPTHS = 3
"""Depths at which networks of one resolution are compared: as many as small residual networks have stages."""
_OFF = "give --distill.features.weight 0"
Layers = Literal["stages", "same", "convolutions"]
One = TypeVar("One")


def pair_layers(
    teacher: Classifier, student: Classifier, layers: Layers, *, needs_places: bool
) -> list[tuple[Stage, Stage]]:
    """Return the pairs of the student's and the teacher's stages.

    Args:
        teacher: in evaluation mode.
        student: in evaluation mode.
        layers: `stages` pairs stages of the same resolution, or, where none is the same, of the same relative
            depth; `same` those of them that have the same resolution and channels, and maybe none;
            `convolutions` pairs all convolutions in the order of their calls.
        needs_places: whether pairs of a single place are left out.

    Raises:
        ZskdError: nothing pairs, but for `same`.
    """
    if layers == "convolutions":
        return _pair_convolutions(find_convolutions(teacher), find_convolutions(student))
    pairs = pair_stages(find_stages(teacher), find_stages(student))
    if needs_places:
        pairs = [(s, t) for s, t in pairs if min(prod(s.grid), prod(t.grid)) > 1]
    if layers == "same":
        return [(s, t) for s, t in pairs if (s.grid, s.channels) == (t.grid, t.channels)]
    if not pairs:
        raise ZskdError(
            "student and teacher have no stages with features that this loss can compare (of vectors, only "
            f"aligned, fitnets and similarity can): choose another --distill.features.loss, or {_OFF}"
        )
    return pairs


def pair_stages(teacher: Sequence[Stage], student: Sequence[Stage]) -> list[tuple[Stage, Stage]]:
    """Return pairs (student's stage, teacher's stage), in the order of the student's stages.

    Args:
        teacher: its stages, in order.
        student: its stages, in order.
    """
    ours, theirs = ({one.grid: one for one in network} for network in (student, teacher))
    if len(ours) == len(student) and len(theirs) == len(teacher) and ours.keys() & theirs.keys():
        return [(one, theirs[grid]) for grid, one in ours.items() if grid in theirs][-_MOST_PAIRS:]
    count = min(len(student), len(teacher), _DEPTHS)
    return list(zip(_spread(student, count), _spread(teacher, count), strict=True))


def _spread(ends: Sequence[One], count: int) -> list[One]:
    """Return so many of some ends, at equal distances of depth; the last is the last."""
    return [ends[round((i + 1) * len(ends) / count) - 1] for i in range(count)]


def _pair_convolutions(teacher: list[Stage], student: list[Stage]) -> list[tuple[Stage, Stage]]:
    sizes = [[prod(one.grid) for one in network] for network in (student, teacher)]
    if [one.grid for one in student] != [one.grid for one in teacher] or not student:
        raise ZskdError(
            f"the convolutions of student and teacher have outputs of {sizes[0]} and {sizes[1]} pixels and "
            f"cannot be paired one by one: give --distill.features.layers stages, or {_OFF}"
        )
    return list(zip(student, teacher, strict=True))
