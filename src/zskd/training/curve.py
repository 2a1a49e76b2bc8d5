"""The curve of a training: how the loss fell, kept beside the network that was trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from zskd.core.artefact import Artefact, AtLeastOne, read_artefact
from zskd.core.errors import ZskdError

CURVE: Final = "curve.json"
"""Name of the file in the folder of a network."""
_POINTS: Final = 200
"""Points of a curve at most."""


class Curve(Artefact):
    """Means of the loss over intervals of steps that follow each other."""

    steps: Annotated[tuple[AtLeastOne, ...], Field(min_length=1, max_length=_POINTS)]
    """Number of steps done at the end of each interval."""
    losses: Annotated[tuple[float, ...], Field(min_length=1, max_length=_POINTS)]
    """Mean loss of each interval."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.steps) != len(self.losses) or list(self.steps) != sorted(set(self.steps)):
            raise ZskdError("steps and losses do not belong together")
        return self


def curve_of(losses: Sequence[float]) -> Curve:
    """Return the curve of a training.

    Args:
        losses: of all steps, in their order; at least one.
    """
    count = min(_POINTS, len(losses))
    ends = [(number + 1) * len(losses) // count for number in range(count)]
    parts = [losses[first:last] for first, last in zip([0, *ends], ends, strict=False)]
    return Curve(steps=tuple(ends), losses=tuple(sum(part) / len(part) for part in parts))


def read_curve(folder: Path) -> Curve | None:
    """Return the curve in the folder of a network; None where an older version trained it.

    Args:
        folder: of the checkpoint.

    Raises:
        ZskdError: the file is damaged.
    """
    file = folder / CURVE
    if not file.is_file():
        return None
    return read_artefact(file, Curve, "the curve of a training", "delete it: the network does not need it")
