"""Digits in colour: the pictures of three data sets, drawn from grey digits.

Each picture has a digit of one colour on a ground of another; one of the two is light and the other dark.
All colours are drawn without a look at the class, so that they tell nothing of it. The textures are made
here: they share no code and no random numbers with the start images of `zskd.synthesis.pictures`, which a
method may show to its students.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.core.errors import ZskdError
from zskd.core.rng import numpy_stream
from zskd.core.types import Images, Labels

PAIRS = tuple(f"{number:02d}" for number in range(43))
"""Classes of the pairs: the first 43 numbers of two digits."""

_SEED = 0
"""Fixed, so that there is only one data set of each name."""
_LIGHT, _DARK = (0.55, 1.0), (0.0, 0.45)
"""Least and largest value of each channel; no channel of a digit is that of its ground."""
_SWING = 0.2
"""Largest change of a channel by a texture, up or down."""
_CELLS = 5
"""Random values of a noise along each side."""
_CYCLES = (1.5, 4.0)
"""Fewest and most stripes along a side."""
_COLOURS, _TEXTURE = 7, 7 + _CELLS**2
"""Random numbers of the two colours of a picture, and of one texture."""


def coloured(digits: Tensor, part: str) -> Images:
    """Return each digit in a colour on a ground of one colour.

    Args:
        digits: grey values (N, 1, H, W) in [0, 1], 1 in the middle of a stroke.
        part: name of the split; with the place of a digit it is the address of its colours.

    Returns:
        Images (N, 3, H, W) in [0, 1].
    """
    numbers = _numbers(f"digits-colour {part}", len(digits), _COLOURS)
    return _laid(digits, *_two_colours(numbers))


def textured(digits: Tensor, part: str) -> Images:
    """Return each digit with a texture inside, on a ground with another texture.

    A texture changes a colour along a direction of colours, by smoothed noise or by stripes.

    Args:
        digits: as for `coloured`.
        part: as for `coloured`.

    Returns:
        Images (N, 3, H, W) in [0, 1].
    """
    size = (digits.shape[2], digits.shape[3])
    numbers = _numbers(f"digits-textured {part}", len(digits), _COLOURS + 2 * _TEXTURE)
    textures = torch.split(numbers[:, _COLOURS:], _TEXTURE, 1)
    fills = zip(_two_colours(numbers), textures, strict=True)
    return _laid(digits, *(_filled(colour, of, size) for colour, of in fills))


def paired(
    digits: Tensor, labels: Tensor, size: tuple[int, int], count: int, part: str
) -> tuple[Images, Labels]:
    """Return pictures of two digits beside each other, in one colour on a ground of one colour.

    Args:
        digits: square ones (N, 1, S, S); S at most the height, and at most half of the width.
        labels: classes (N,) of the digits, 0 to 9.
        size: height and width of the pictures.
        count: pictures of each pair.
        part: name of the split, in the address of all random numbers.

    Returns:
        Images (43 × count, 3, H, W) in [0, 1], and the numbers (43 × count,) of their pairs in `PAIRS`.

    Raises:
        ZskdError: there are fewer than two digits of some class.
    """
    rows = [torch.nonzero(labels == digit)[:, 0].numpy() for digit in range(10)]
    if count and min(map(len, rows)) < 2:
        raise ZskdError(
            f"digits-pairs needs two {part} digits of each class: give another --data.validation, or 0"
        )
    side, middle = digits.shape[2], size[1] // 2
    strokes = torch.zeros(len(PAIRS) * count, 1, *size)
    numbers = _numbers(f"digits-pairs {part}", len(strokes), _COLOURS + 3)
    for picture, (one, other, height) in enumerate(numbers[:, _COLOURS:].tolist()):
        left, right = (rows[int(digit)] for digit in PAIRS[picture // count])
        first = left[int(one * len(left))]
        others = right[right != first]
        second = others[int(other * len(others))]
        top = int(height * (size[0] - side + 1))
        strokes[picture, :, top : top + side, middle - side : middle] = digits[first]
        strokes[picture, :, top : top + side, middle : middle + side] = digits[second]
    return _laid(strokes, *_two_colours(numbers)), torch.arange(len(PAIRS)).repeat_interleave(count)


def _numbers(address: str, count: int, width: int) -> Tensor:
    """Return U(0, 1) for so many pictures, (N, width); those of a picture depend on its place alone."""
    drawn = [numpy_stream(_SEED, address, place).random(width) for place in range(count)]
    return torch.from_numpy(np.array(drawn).reshape(count, width))


def _between(numbers: Tensor, least: float, most: float) -> Tensor:
    return least + (most - least) * numbers


def _two_colours(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the colours (N, 3, 1, 1) of digits and of their grounds."""
    light, dark = (
        _between(of[..., None, None], *bounds)
        for of, bounds in ((numbers[:, :3], _LIGHT), (numbers[:, 3:6], _DARK))
    )
    swapped = numbers[:, 6, None, None, None] < 0.5
    return torch.where(swapped, dark, light), torch.where(swapped, light, dark)


def _filled(colours: Tensor, numbers: Tensor, size: tuple[int, int]) -> Tensor:
    """Return colours with textures, (N, 3, H, W)."""
    kind, direction, wave, grid = torch.split(numbers, [1, 3, 3, _CELLS**2], 1)
    texture = torch.where(kind[..., None] < 0.5, _noise(grid, size), _stripes(wave, size))
    swing = _between(direction, -_SWING, _SWING)
    return (colours + swing[..., None, None] * texture[:, None]).clamp(0, 1)


def _noise(numbers: Tensor, size: tuple[int, int]) -> Tensor:
    """Return coarse grids of U(-1, 1), smoothed between their points, (N, H, W)."""
    grid = _between(numbers, -1, 1).view(-1, 1, _CELLS, _CELLS)
    return F.interpolate(grid, size=size, mode="bicubic", align_corners=False)[:, 0].clamp(-1, 1)


def _stripes(numbers: Tensor, size: tuple[int, int]) -> Tensor:
    """Return waves of one direction, from -1 to 1, (N, H, W)."""
    angle, phase, cycles = numbers[..., None].unbind(1)
    rows, columns = (torch.arange(side, dtype=torch.float64) / side for side in size)
    turn = 2 * torch.pi
    frequency = _between(cycles, *_CYCLES)
    down, across = (frequency * function(turn * angle) for function in (torch.sin, torch.cos))
    along = down[..., None] * rows[:, None] + across[..., None] * columns
    return torch.sin(turn * (along + phase[..., None]))


def _laid(strokes: Tensor, inside: Tensor, behind: Tensor) -> Images:
    """Return digits over their ground, float32; a grey value of a stroke is the share of the digit."""
    return (behind + strokes * (inside - behind)).clamp(0, 1).float()
