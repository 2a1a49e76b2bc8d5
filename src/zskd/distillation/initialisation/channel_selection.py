"""Which channels of the teacher a narrower student takes over."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from zskd.distillation.initialisation.ridge import (
    IMAGES_AT_ONCE,
    WeightedLayer,
    as_rows,
    normal_equations,
    rows_of_channels,
    set_rows,
    solve_ridge,
    weighted_layer,
)

_TRIED = 32
"""Up to so many channels are left out by trying; among more one stands in for another anyway."""
_TRIED_ON = 300
"""Images that the teacher is asked about at each try."""
_TAU = 2.0
"""Temperature at which answers are compared."""


def divergence(said: Tensor, wanted: Tensor) -> float:
    """Return the mean Kullback–Leibler divergence of answers (N, K) from those wanted (N, K), in nats."""
    said, wanted = (F.log_softmax(logits / _TAU, 1) for logits in (said, wanted))
    return float(F.kl_div(said, wanted, log_target=True, reduction="batchmean"))


def select_channels(
    large: nn.Sequential, place: int, count: int, inputs: Tensor, numbers: Generator
) -> Tensor:
    """Return the channels of a layer that a student with so many takes over, in order."""
    width = len(weighted_layer(large, place).weight)
    if count == width:
        return torch.arange(width, device=inputs.device)
    following = next(i for i in range(place + 1, len(large)) if isinstance(large[i], WeightedLayer))
    layers = list(large)
    before, behind = nn.Sequential(*layers[:following]), nn.Sequential(*layers[following:])
    if width <= _TRIED:
        kept = _least_missed(before, behind, width, count, inputs, numbers)
    else:
        kept = _most_telling(before, behind, width, count, inputs)
    return torch.tensor(kept, device=inputs.device)


def _least_missed(
    before: nn.Sequential, behind: nn.Sequential, width: int, count: int, inputs: Tensor, numbers: Generator
) -> list[int]:
    """Leave out one channel after the other: the one without which the teacher's answers change least, when
    the layer behind has been fitted to the others."""
    layer = weighted_layer(behind, 0)
    square, _ = normal_equations(layer, before, nn.Sequential(*before, layer), inputs, numbers)
    weight = as_rows(layer)
    entering = before(inputs[:_TRIED_ON])
    wanted = behind(entering)
    fitted = copy.deepcopy(layer)

    def change(rest: list[int]) -> float:
        rows = rows_of_channels(rest, width, layer)
        within = square[rows][:, rows]
        values = torch.zeros_like(weight)
        values[rows] = weight[rows] + solve_ridge(within, square[rows] @ weight - within @ weight[rows])
        set_rows(fitted, values)
        return divergence(behind[1:](fitted(entering)), wanted)

    kept = list(range(width))
    while len(kept) > count:
        kept = min(([one for one in kept if one != out] for out in kept), key=change)
    return kept


def _most_telling(
    before: nn.Sequential, behind: nn.Sequential, width: int, count: int, inputs: Tensor
) -> list[int]:
    """Take one channel after the other, for what it tells beyond those before it: the covariance of what is
    unknown, seen through the weights of the layer behind, shrinks most."""
    products, sums, values = inputs.new_zeros(width, width), inputs.new_zeros(width), 0
    for some in torch.split(inputs, IMAGES_AT_ONCE):
        channels = before(some).reshape(len(some), width, -1).transpose(0, 1).flatten(1)
        products += channels @ channels.T
        sums += channels.sum(1)
        values += channels.shape[1]
    mean = sums.double() / values
    unknown = products.double() / values - mean.outer(mean)
    weight = weighted_layer(behind, 0).weight
    heard = weight.double().reshape(len(weight), width, -1).transpose(0, 1).flatten(1)
    least = 1e-9 * unknown.diagonal().mean() + torch.finfo(unknown.dtype).tiny
    chosen: list[int] = []
    for _ in range(count):
        told = (heard.T @ unknown).square().sum(0) / unknown.diagonal().clamp_min(least)
        told[chosen] = -1.0
        best = int(told.argmax())
        chosen.append(best)
        unknown = unknown - unknown[:, best].outer(unknown[best]) / unknown[best, best].clamp_min(least)
    return sorted(chosen)
