"""Backward elimination of channels, judged by the teacher's logits.

One channel after the other is removed: the one without which the logits change least, after the next layer
has been refitted to the remaining ones (ThiNet, Luo et al. 2017, arXiv:1707.06342, judges the next layer's
outputs instead). The refits to all sets of remaining channels come from one inverse; solving for each set
anew only decides between the best.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd.core.memory import at_once
from zskd.distillation.initialisation.ridge import (
    WeightedLayer,
    damped,
    rows_of_channels,
    set_weight_matrix,
    solve_ridge,
    weight_matrix,
    weighted_layer,
)
from zskd.models.output import two_classes

_WIDEST, _MOST_INPUTS = 32, 4096
"""Widest layer that channels are eliminated from, as in a wider one other channels can replace any channel;
and the most inputs of the layer that follows, whose products must fit into memory."""
TAU = 2.0
"""Temperature at which logits are compared."""
_IMAGES_AT_ONCE = 1200
"""Images in one forward pass over all candidates of it, fewer of large ones."""
_NEAR, _NOISE = 1.1, 1e-7
"""Candidates up to this factor above the least divergence, plus this many nats, are solved for anew."""


def may_eliminate(width: int, following: WeightedLayer) -> bool:
    """Whether the channels of a layer of some width can be chosen by elimination, before another layer."""
    return width <= _WIDEST and following.weight[0].numel() <= _MOST_INPUTS


def divergence(logits: Tensor, target: Tensor) -> float:
    """Return KL(softmax(target/τ) ‖ softmax(logits/τ)) at τ = 2, averaged over images, in nats.

    Args:
        logits: (N, K), or (N, 1) for two classes.
        target: logits of the same shape.
    """
    logits, target = (F.log_softmax(two_classes(one) / TAU, 1) for one in (logits, target))
    return float(F.kl_div(logits, target, log_target=True, reduction="batchmean"))


class Elimination:
    """Removal of input channels of a layer.

    Args:
        following: the layer and all that follow it; left as they are.
        width: number of channels that enter it.
        gram: Gram matrix (I, I) of its inputs, float64.
        inputs: of the layer, for the images that candidates are judged on.
        target: the teacher's logits for these images (N, K).
    """

    def __init__(
        self, following: nn.Sequential, width: int, gram: Tensor, inputs: Tensor, target: Tensor
    ) -> None:
        self._layer, self._following = weighted_layer(following, 0), following[1:]
        self._refitted = copy.deepcopy(self._layer)
        self._weight, self._gram, self._inputs, self._target = (
            weight_matrix(self._layer),
            gram,
            inputs,
            target,
        )
        self._width = width
        per_channel = self._layer.weight[0].numel() // width
        self._rows = torch.arange(width * per_channel, device=gram.device).view(width, per_channel)

    def keep(
        self, count: int, *, exactly: bool = True, judge: Callable[[int], None] = lambda _: None
    ) -> list[int]:
        """Return the `count` channels that stay, in ascending order.

        Args:
            count: at least 1, at most the width.
            exactly: whether the best candidates of each round are solved for anew, with a ridge of their own.
            judge: called with the number of candidates after each round.
        """
        channels = list(range(self._width))
        inverse, weight = torch.linalg.inv(damped(self._gram)), self._weight.clone()
        while len(channels) > count:
            changes = [*self._changes(channels, inverse, weight)]
            near = _NEAR * min(changes) + _NOISE if exactly else min(changes)
            nominated = [one for one, change in zip(channels, changes, strict=True) if change <= near]
            if len(nominated) > 1:
                nominated.sort(key=lambda one: self._change([other for other in channels if other != one]))
            removed = nominated[0]
            channels.remove(removed)
            weight = self._without(removed, inverse, weight)
            rows = self._rows[removed]
            inverse = inverse - inverse[:, rows] @ torch.linalg.solve(inverse[rows][:, rows], inverse[rows])
            # what is left there is rounding
            inverse[rows], inverse[:, rows] = 0.0, 0.0
            judge(len(changes))
        return channels

    def _without(self, channel: int, inverse: Tensor, weight: Tensor) -> Tensor:
        """Return the refitted weights (I, O) without a channel: W − P_R P_RR⁻¹ W_R with its rows R."""
        rows = self._rows[channel]
        reduced: Tensor = weight - inverse[:, rows] @ torch.linalg.solve(inverse[rows][:, rows], weight[rows])
        reduced[rows] = 0.0
        return reduced

    def _changes(self, channels: list[int], inverse: Tensor, weight: Tensor) -> Iterator[float]:
        """Yield the divergence of the logits without each channel in turn."""
        together = max(1, at_once(_IMAGES_AT_ONCE, self._inputs.shape) // len(self._inputs))
        for first in range(0, len(channels), together):
            outputs = []
            for channel in channels[first : first + together]:
                set_weight_matrix(self._refitted, self._without(channel, inverse, weight))
                outputs.append(self._refitted(self._inputs))
            for logits in self._following(torch.cat(outputs)).split(len(self._inputs)):
                yield divergence(logits, self._target)

    def _change(self, remaining: list[int]) -> float:
        """Return the divergence of the logits with the remaining channels, solved for anew."""
        rows = rows_of_channels(remaining, self._width, self._layer)
        within = self._gram[rows][:, rows]
        matrix = torch.zeros_like(self._weight)
        matrix[rows] = self._weight[rows] + solve_ridge(
            within, self._gram[rows] @ self._weight - within @ self._weight[rows]
        )
        set_weight_matrix(self._refitted, matrix)
        return divergence(self._following(self._refitted(self._inputs)), self._target)
