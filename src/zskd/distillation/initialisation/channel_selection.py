"""Selection of the teacher's channels that a narrower student is initialised with.

Backward elimination for narrow layers, as in ThiNet (Luo et al. 2017, arXiv:1707.06342), but judged by the
teacher's logits; forward selection for wide ones.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from zskd.distillation.initialisation.ridge import (
    WeightedLayer,
    gram_matrix,
    in_parts,
    rows_of_channels,
    set_weight_matrix,
    solve_ridge,
    weight_matrix,
    weighted_layer,
)

_ELIMINATION_WIDTH = 32
"""Widest layer for backward elimination; in a wider one, other channels can replace any channel."""
_ELIMINATION_IMAGES = 300
"""Images that each elimination is judged on."""
_TAU = 2.0
"""Temperature at which logits are compared."""


def divergence(logits: Tensor, target: Tensor) -> float:
    """Return KL(softmax(target/τ) ‖ softmax(logits/τ)) at τ = 2, averaged over images, in nats.

    Args:
        logits: (N, K).
        target: logits (N, K).
    """
    logits, target = (F.log_softmax(one / _TAU, 1) for one in (logits, target))
    return float(F.kl_div(logits, target, log_target=True, reduction="batchmean"))


def select_channels(teacher: nn.Sequential, index: int, count: int, images: Tensor, rng: Generator) -> Tensor:
    """Return the channels of a teacher's layer that the student's layer is initialised with.

    Args:
        teacher: a chain of layers.
        index: of a convolution or linear layer in it.
        count: channels of the student's layer.
        images: normalised (N, C, H, W).
        rng: for the positions that a convolution is fitted on.

    Returns:
        Numbers of the channels (count,), in ascending order.
    """
    width = len(weighted_layer(teacher, index).weight)
    if count == width:
        return torch.arange(width, device=images.device)
    split = next(i for i in range(index + 1, len(teacher)) if isinstance(teacher[i], WeightedLayer))
    layers = list(teacher)
    preceding, following = nn.Sequential(*layers[:split]), nn.Sequential(*layers[split:])
    if width <= _ELIMINATION_WIDTH:
        channels = _eliminate_backward(preceding, following, width, count, images, rng)
    else:
        channels = _select_forward(preceding, following, width, count, images)
    return torch.tensor(channels, device=images.device)


def _eliminate_backward(
    preceding: nn.Sequential,
    following: nn.Sequential,
    width: int,
    count: int,
    images: Tensor,
    rng: Generator,
) -> list[int]:
    """Remove one channel after the other: the one without which the teacher's logits change least, after the
    next layer has been refitted to the remaining channels."""
    layer = weighted_layer(following, 0)
    gram = gram_matrix(layer, preceding, images, rng)
    weight = weight_matrix(layer)
    inputs = preceding(images[:_ELIMINATION_IMAGES])
    target = following(inputs)
    refitted = copy.deepcopy(layer)

    def change(remaining: list[int]) -> float:
        rows = rows_of_channels(remaining, width, layer)
        within = gram[rows][:, rows]
        matrix = torch.zeros_like(weight)
        matrix[rows] = weight[rows] + solve_ridge(within, gram[rows] @ weight - within @ weight[rows])
        set_weight_matrix(refitted, matrix)
        return divergence(following[1:](refitted(inputs)), target)

    channels = list(range(width))
    while len(channels) > count:
        channels = min(([one for one in channels if one != removed] for removed in channels), key=change)
    return channels


def _select_forward(
    preceding: nn.Sequential, following: nn.Sequential, width: int, count: int, images: Tensor
) -> list[int]:
    """Add one channel after the other: the one that explains most of the residual covariance of all channels,
    weighted by the next layer's weights."""
    gram, sums, values = images.new_zeros(width, width), images.new_zeros(width), 0
    for batch in in_parts(images):
        channels = preceding(batch).reshape(len(batch), width, -1).transpose(0, 1).flatten(1)
        gram += channels @ channels.T
        sums += channels.sum(1)
        values += channels.shape[1]
    mean = sums.double() / values
    covariance = gram.double() / values - mean.outer(mean)
    weight = weighted_layer(following, 0).weight
    weights = weight.double().reshape(len(weight), width, -1).transpose(0, 1).flatten(1)
    least = 1e-9 * covariance.diagonal().mean() + torch.finfo(covariance.dtype).tiny
    selected: list[int] = []
    for _ in range(count):
        explained = (weights.T @ covariance).square().sum(0) / covariance.diagonal().clamp_min(least)
        explained[selected] = -1.0
        best = int(explained.argmax())
        selected.append(best)
        conditional = covariance[:, best].outer(covariance[best])
        covariance = covariance - conditional / covariance[best, best].clamp_min(least)
    return sorted(selected)
