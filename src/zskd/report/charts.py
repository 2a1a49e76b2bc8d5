"""What the drawings of a page need: scales, and matrices that are drawn cell by cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zskd.evaluation.figures import FEW_TICKS, TICKS

_NICE = (1, 2, 2.5, 5, 10)
_MOST_CELLS = 40
"""Classes of a matrix that is drawn; of a larger one, its largest entries are listed."""
_LISTED = 30


@dataclass(frozen=True)
class Scale:
    """Values along an axis of some pixels, linear or logarithmic."""

    low: float
    high: float
    pixels: tuple[float, float]
    """Where low and high are drawn."""
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        of = math.log if self.logarithmic else float
        share = (of(value) - of(self.low)) / ((of(self.high) - of(self.low)) or 1.0)
        first, last = self.pixels
        return round(first + share * (last - first), 1)

    @property
    def ticks(self) -> list[float]:
        """Round values inside of the scale."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            digits = TICKS if self.high / self.low < 10 else FEW_TICKS
            found = [digit * 10.0**power for power in powers for digit in digits]
        else:
            raw = (self.high - self.low) / 4 or 1.0
            power = 10.0 ** math.floor(math.log10(raw))
            step = next(nice * power for nice in _NICE if nice * power >= raw * (1 - 1e-9))
            first = math.ceil(self.low / step - 1e-9)
            found = [round(step * (first + k), 10) for k in range(6)]
        return [value for value in found if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]


def scale_of(
    values: Iterable[float],
    pixels: tuple[float, float],
    *,
    logarithmic: bool = False,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Scale:
    """Return a scale with some room around the values.

    Args:
        values: at least one; above 0 for a logarithmic scale.
        pixels: where the ends are drawn.
        logarithmic: whether equal ratios are equally far apart.
        within: ends that the scale never passes.
    """
    found = list(values)
    low, high = min(found), max(found)
    if logarithmic:
        low, high = low / 1.5, high * 1.5
    else:
        room = 0.1 * (high - low) or 1.0
        low, high = low - room, high + room
    return Scale(max(low, within[0]), min(high, within[1]), pixels, logarithmic)


@dataclass(frozen=True)
class Cell:
    """One entry of a matrix."""

    row: str
    column: str
    value: float
    strength: float
    """0 to 1: how strongly it is coloured."""


@dataclass(frozen=True)
class Matrix:
    """A matrix over classes, as rows of cells, or as a list of its largest entries."""

    names: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    largest: tuple[Cell, ...]
    """Entries off the diagonal; present where the matrix is too large to be drawn."""


def matrix_of(
    values: Sequence[Sequence[float]], names: Sequence[str], *, by_row: bool, symmetric: bool
) -> Matrix:
    """Prepare a matrix for drawing.

    Args:
        values: (K, K).
        names: of the K classes.
        by_row: whether a cell is coloured by its share of its row, or by its place between the smallest and
            the largest value off the diagonal.
        symmetric: whether an entry and its mirror image are one.
    """
    count = len(names)
    outside = [values[k][j] for k in range(count) for j in range(count) if k != j] or [0.0]
    low, width = min(outside), (max(outside) - min(outside)) or 1.0

    def cell(k: int, j: int) -> Cell:
        value = float(values[k][j]) + 0.0
        share = value / (sum(values[k]) or 1.0) if by_row else (value - low) / width
        return Cell(names[k], names[j], value, round(min(1.0, max(0.0, share)), 3))

    if count <= _MOST_CELLS:
        return Matrix(tuple(names), tuple(tuple(cell(k, j) for j in range(count)) for k in range(count)), ())
    pairs = [
        (k, j)
        for k in range(count)
        for j in range(count)
        if (k < j if symmetric else k != j) and values[k][j]
    ]
    pairs.sort(key=lambda pair: -values[pair[0]][pair[1]])
    return Matrix(tuple(names), (), tuple(cell(k, j) for k, j in pairs[:_LISTED]))
