"""Layer-wise least squares: weights whose outputs are nearest to those of the teacher's layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

_PLACES = 15
"""Places of each image, chosen at random, that a convolution is fitted on."""
_RIDGE = 1e-3
"""Weight of the squared distance from the teacher's weights, in mean squares of what enters the layer."""
IMAGES_AT_ONCE = 100
"""Images that go through the networks at once."""
WeightedLayer = nn.Conv2d | nn.Linear


def normal_equations(
    layer: WeightedLayer,
    before: nn.Module,
    wanted: Callable[[Tensor], Tensor],
    inputs: Tensor,
    numbers: Generator,
) -> tuple[Tensor, Tensor]:
    """Return the products of what enters a layer with itself, and with what it lacks of what is wanted.

    A layer's values are taken as rows, one for each value that enters and one for its bias.
    """
    size = layer.weight[0].numel() + (layer.bias is not None)
    square = inputs.new_zeros(size, size, dtype=torch.double)
    towards = inputs.new_zeros(size, len(layer.weight), dtype=torch.double)
    for some in torch.split(inputs, IMAGES_AT_ONCE):
        rows = before(some)
        missing = wanted(some) - layer(rows)
        if isinstance(layer, nn.Conv2d):
            rows, missing = _patches(layer, rows, missing, numbers)
        if layer.bias is not None:
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
        square += rows.T @ rows
        towards += rows.T @ missing
    return square, towards


def solve_ridge(square: Tensor, towards: Tensor) -> Tensor:
    """Return the least change by ridge regression."""
    ridge = _RIDGE * square.diagonal().mean() + torch.finfo(square.dtype).tiny
    change: Tensor = torch.linalg.solve(square + ridge * torch.eye(len(square)).to(square), towards)
    return change


def as_rows(layer: WeightedLayer) -> Tensor:
    """Return weights and bias as a matrix with one row per input value, the bias last, in float64."""
    rows = layer.weight.flatten(1).T
    return (rows if layer.bias is None else torch.cat([rows, layer.bias[None]])).double()


def set_rows(layer: WeightedLayer, rows: Tensor) -> None:
    """Write such a matrix back into a layer."""
    layer.weight.copy_(rows[: layer.weight[0].numel()].T.reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(rows[-1])


def rows_of_channels(channels: list[int], width: int, layer: WeightedLayer) -> Tensor:
    """Return which rows are these channels' of the layer before, out of so many, and the bias."""
    size = layer.weight[0].numel()
    rows = torch.arange(size, device=layer.weight.device).view(width, -1)[channels].flatten()
    return rows if layer.bias is None else torch.cat([rows, rows.new_tensor([size])])


def weighted_layer(chain: nn.Sequential, place: int) -> WeightedLayer:
    """Return the convolution or linear layer at a place of a chain."""
    layer = chain[place]
    assert isinstance(layer, WeightedLayer)
    return layer


def _patches(layer: nn.Conv2d, given: Tensor, said: Tensor, numbers: Generator) -> tuple[Tensor, Tensor]:
    """Return what a convolution sees at some places, one row each, and what is said there."""
    if layer.padding == "same":
        spans = [step * (size - 1) for size, step in zip(layer.kernel_size, layer.dilation, strict=True)]
        around = [side for span in reversed(spans) for side in (span // 2, span - span // 2)]
    else:
        amounts = (0, 0) if isinstance(layer.padding, str) else layer.padding
        around = [amount for amount in reversed(amounts) for _ in range(2)]
    seen = F.pad(given, around)
    for axis in (0, 1):
        span = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        seen = seen.unfold(2 + axis, span, layer.stride[axis])
    seen = seen[..., :: layer.dilation[0], :: layer.dilation[1]]  # still a view: (N, C, H, W, kernel)
    height, width = said.shape[2:]
    places = torch.randperm(height * width, generator=numbers)[:_PLACES].to(said.device)
    down, across = places // width, places % width
    rows = seen[:, :, down, across].transpose(1, 2).flatten(0, 1).flatten(1)
    return rows, said[:, :, down, across].transpose(1, 2).flatten(0, 1)
