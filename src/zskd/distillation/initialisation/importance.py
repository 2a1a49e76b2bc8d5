"""How much each channel of a network matters, measured where other layers receive it.

Each rule judges the channels of a group by the layers that they enter:

- `covariance`: channels that explain, one after the other, most of what these layers receive from all of
  them. Where channels go in units, such as heads, those that add most variance to the layers' outputs: the
  layers' biases make up for means (He et al. 2017, arXiv:1707.06168, minimise this error).
- `fisher`: how much the distribution of the classes changes without what a channel adds to its mean, to
  second order (Theis et al. 2018, arXiv:1801.05787). The first-order term of Molchanov et al. 2019
  (arXiv:1906.10771) is zero for the divergence from the teacher's own logits.
- `norm`: the L2 norm of the weights that make a channel. It needs no images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from zskd.core.passes import count_images
from zskd.distillation.initialisation.elimination import TAU
from zskd.models.classifier import Classifier
from zskd.models.hooks import Before, before_runs
from zskd.models.narrow.groups import LAYERS, Member
from zskd.models.narrow.matching import Match, Share
from zskd.models.narrow.scoring import Makers
from zskd.models.running import running_original

Rule = Literal["covariance", "fisher", "norm"]
RULES: tuple[Rule, ...] = ("covariance", "fisher", "norm")
"""Rules that are tried; the first one where the work is bounded."""
_MOST_PRODUCTS = 4096
"""Channels whose products with each other are summed, at most."""


@dataclass
class _Received:
    """What a layer receives through its input channels, summed over images and positions."""

    weight: Tensor
    """(C, …): the layer's weights of each channel."""
    sums: Tensor
    products: Tensor
    """(C, C), or of each channel with itself alone (C,), where there are many."""
    effects: Tensor
    """(C,): squares of what each channel's deviation from its mean adds to the log-probability of a class."""
    values: int = 0
    images: int = 0

    @property
    def covariance(self) -> Tensor:
        """(C, C)."""
        products = self.products if self.products.ndim == 2 else torch.diag(self.products)
        mean = self.sums / self.values
        return products / self.values - mean.outer(mean)

    @property
    def variance_of_outputs(self) -> Tensor:
        """(C,): the variance that each channel alone adds to the layer's outputs."""
        squares = self.products.diagonal() if self.products.ndim == 2 else self.products
        variance = squares / self.values - (self.sums / self.values).square()
        return variance * self.weight.double().square().sum(1)

    @property
    def information(self) -> Tensor:
        """(C,): Fisher information about each channel's deviation from its mean."""
        return self.effects / self.images


def receives(member: Member, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a member of a group is a layer that channels enter, not one that they pass, as a depthwise
    convolution or a norm."""
    module = modules.get(member.name)
    entered = isinstance(module, nn.MultiheadAttention) or member.side == "in"
    return isinstance(module, LAYERS) and entered


class Importance:
    """Measures the channels of a network's groups on some images.

    Args:
        teacher: in evaluation mode; left as it is.
        match: its groups, and what stays of them.
        parts: images (N, C, H, W) in [0, 1], in as many parts as go through the network at once, forwards and
            backwards.
        rng: for the classes that are drawn from the teacher's distributions, and for positions.
    """

    def __init__(self, teacher: Classifier, match: Match, parts: Sequence[Tensor], rng: Generator) -> None:
        self._match, self._rng = match, rng
        self._makers = Makers(match.network)
        self._received: dict[str, _Received] = {}
        self._latest: dict[str, Tensor] = {}
        names = {
            one.name
            for share in match.shares
            for one in share.group.members
            if receives(one, self._makers.modules)
        }
        with running_original(teacher), ExitStack() as undo:
            for name in sorted(names):
                undo.enter_context(before_runs(teacher.module.get_submodule(name), self._watch(name)))
            for part in parts:
                self._measure(teacher, part)

    def of_groups(self, rule: Rule) -> dict[str, Tensor]:
        """Return the importance of each channel (size,) of each group, by the groups' names."""
        return {share.group.name: self._of_group(share, rule) for share in self._match.shares}

    def _of_group(self, share: Share, rule: Rule) -> Tensor:
        received = [
            (one, self._received[one.name])
            for one in share.group.members
            if receives(one, self._makers.modules) and one.name in self._received
        ]
        if rule == "norm" or not received:
            return self._makers.importance(share.group)
        if rule == "covariance" and share.units == 1:
            return self._order(share, received)
        total = torch.zeros(share.group.size)
        for one, found in received:
            values = found.information if rule == "fisher" else found.variance_of_outputs
            total.index_add_(0, one.roots, values.float().cpu()[one.indices])
        return total

    @staticmethod
    def _order(share: Share, received: Sequence[tuple[Member, _Received]]) -> Tensor:
        """Return an importance that falls in the order in which channels are chosen."""
        kernels, covariances = [], []
        for one, found in received:
            into = found.sums.new_zeros(share.group.size, len(found.sums))
            into[one.roots, one.indices] = 1.0
            covariances.append(into @ found.covariance @ into.T)
            kernels.append(into @ found.weight.double())
        return order_by_covariance(covariances, kernels, share.count)

    def _watch(self, name: str) -> Before:
        def watch(layer: nn.Module, given: Tensor) -> Tensor:
            # a copy: its gradient is that through this layer alone, and no layer in place changes it
            value = given.clone()
            # that of a table of positions, say, does not depend on the images
            self._latest[name] = value if value.requires_grad else value.requires_grad_()
            return self._latest[name]

        return watch

    def _measure(self, teacher: Classifier, part: Tensor) -> None:
        self._latest.clear()
        with torch.enable_grad():
            logits = teacher(part.detach().requires_grad_())
            odds = F.log_softmax(logits / TAU, 1)
            # on the CPU, so that the draw is the same on any device
            drawn = torch.multinomial(odds.detach().exp().cpu(), 1, generator=self._rng).to(part.device)
            inputs = dict(self._latest)
            gradients = torch.autograd.grad(
                odds.gather(1, drawn).sum(), list(inputs.values()), allow_unused=True
            )
        count_images(teacher, backward=len(part))  # the gradient ends at layers, not at the images
        for (name, value), gradient in zip(inputs.items(), gradients, strict=True):
            layer = teacher.module.get_submodule(name)
            self._add(name, layer, value.detach(), torch.zeros_like(value) if gradient is None else gradient)

    def _add(self, name: str, layer: nn.Module, value: Tensor, gradient: Tensor) -> None:
        dim = 1 if isinstance(layer, nn.modules.conv._ConvNd) else value.ndim - 1
        value, gradient = (
            one.movedim(dim, 1).flatten(2) if one.ndim > 2 else one[:, :, None] for one in (value, gradient)
        )
        width = value.shape[1]
        if name not in self._received:
            zeros = torch.zeros(width, dtype=torch.double, device=value.device)
            products = zeros.new_zeros(width, width) if width <= _MOST_PRODUCTS else zeros.clone()
            self._received[name] = _Received(_weight_by_channel(layer, width), zeros, products, zeros.clone())
        received = self._received[name]
        received.values += value.shape[0] * value.shape[2]
        received.images += len(value)
        received.sums += value.sum((0, 2)).double()
        mean = (received.sums / received.values).to(value)
        received.effects += ((value - mean[:, None]) * gradient).sum(2).double().square().sum(0)
        rows = value.transpose(0, 1).flatten(1)
        whole = received.products.ndim == 2
        received.products += (rows @ rows.T).double() if whole else rows.double().square().sum(1)


def order_by_covariance(covariances: Sequence[Tensor], kernels: Sequence[Tensor], count: int) -> Tensor:
    """Return an importance (C,) that falls in the order in which channels are chosen, the others zero.

    The next channel is the one that explains most of the variance of the layers' outputs that those before it
    leave unexplained. The share of each layer counts, so that all layers are alike.

    Args:
        covariances: of the channels, as each layer receives them (C, C), float64.
        kernels: each layer's weights of the channels (C, …), float64.
        count: number of channels to choose.
    """
    left = [one.clone() for one in covariances]
    mixed = [kernel.T @ one for kernel, one in zip(kernels, left, strict=True)]
    size = len(left[0])
    totals = [
        float((kernel.T @ one * kernel.T).sum().clamp_min(torch.finfo(one.dtype).tiny))
        for kernel, one in zip(kernels, left, strict=True)
    ]
    least = [1e-9 * one.diagonal().mean() + torch.finfo(one.dtype).tiny for one in left]
    importance = torch.zeros(size)
    for place in range(count):
        explained = sum(
            one.square().sum(0) / covariance.diagonal().clamp_min(low) / total
            for one, covariance, low, total in zip(mixed, left, least, totals, strict=True)
        )
        assert isinstance(explained, Tensor)
        explained[importance.to(explained.device) > 0] = -1.0
        best = int(explained.argmax())
        importance[best] = count - place
        for number, covariance in enumerate(left):
            column = covariance[:, best] / covariance[best, best].clamp_min(least[number])
            mixed[number] = mixed[number] - mixed[number][:, best].outer(column)
            left[number] = covariance - covariance[:, best].outer(column)
    return importance


def _weight_by_channel(layer: nn.Module, width: int) -> Tensor:
    """Return a layer's weights by input channel (C, …)."""
    joined = isinstance(layer, nn.MultiheadAttention) and layer.in_proj_weight is not None
    name = "in_proj_weight" if joined else "weight" if hasattr(layer, "weight") else "q_proj_weight"
    weight: Tensor = getattr(layer, name)
    if getattr(layer, "transposed", False):
        weight = weight.transpose(0, 1)
    groups = getattr(layer, "groups", 1)
    by_group = weight.detach().reshape(groups, len(weight) // groups, width // groups, -1)
    return by_group.transpose(1, 2).reshape(width, -1)
