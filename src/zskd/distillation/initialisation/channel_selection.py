"""Selection of the teacher's channels that a narrower student is initialised with.

Backward elimination for narrow layers, as in ThiNet (Luo et al. 2017, arXiv:1707.06342), but judged by the
teacher's logits; forward selection for wide ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor, nn

from zskd.distillation.initialisation.effort import Effort
from zskd.distillation.initialisation.elimination import Elimination, may_eliminate
from zskd.distillation.initialisation.passes import Passes
from zskd.distillation.initialisation.ridge import WeightedLayer, gram_matrix, weighted_layer


class Judged:
    """A teacher's images that the elimination of channels is judged on.

    Args:
        teacher: a chain of layers.
        images: normalised (N, C, H, W).
    """

    def __init__(self, teacher: nn.Sequential, images: Tensor) -> None:
        self.passes = Passes(teacher, (images,))
        (self.logits,) = self.passes.at(len(teacher))


def select_channels(
    teacher: nn.Sequential,
    index: int,
    count: int,
    passes: Passes,
    judged: Judged,
    rng: Generator,
    *,
    effort: Effort,
    judge: Callable[[int], None],
) -> Tensor:
    """Return the channels of a teacher's layer that the student's layer is initialised with.

    Args:
        teacher: a chain of layers.
        index: of a convolution or linear layer in it.
        count: channels of the student's layer.
        passes: the teacher's, at or before the outputs of this layer.
        judged: images that an elimination is judged on.
        rng: for the positions that a convolution is fitted on.
        effort: whether and how channels are eliminated.
        judge: called with the number of candidates after each round of an elimination.

    Returns:
        Numbers of the channels (count,), in ascending order.
    """
    layer = weighted_layer(teacher, index)
    width = len(layer.weight)
    if count == width:
        return torch.arange(width, device=layer.weight.device)
    split = next(i for i in range(index + 1, len(teacher)) if isinstance(teacher[i], WeightedLayer))
    following = weighted_layer(teacher, split)
    if effort.eliminates and may_eliminate(width, following):
        gram = gram_matrix(following, passes.at(split), rng)
        judged.passes.advance(split)
        (inputs,) = judged.passes.at(split)
        elimination = Elimination(nn.Sequential(*list(teacher)[split:]), width, gram, inputs, judged.logits)
        channels = elimination.keep(count, exactly=effort.exactly, judge=judge)
    else:
        channels = _select_forward(passes.at(split), following, width, count)
    return torch.tensor(channels, device=layer.weight.device)


def _select_forward(parts: Iterable[Tensor], following: WeightedLayer, width: int, count: int) -> list[int]:
    """Add one channel after the other: the one that explains most of the residual covariance of all channels,
    weighted by the next layer's weights."""
    weight = following.weight
    gram, sums, values = weight.new_zeros(width, width), weight.new_zeros(width), 0
    for inputs in parts:
        channels = inputs.reshape(len(inputs), width, -1).transpose(0, 1).flatten(1)
        gram += channels @ channels.T
        sums += channels.sum(1)
        values += channels.shape[1]
    mean = sums.double() / values
    covariance = gram.double() / values - mean.outer(mean)
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
