"""Groups of channels that must go together, because the network joins them: what a cut is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

Side = Literal["out", "in", "both"]
"""Output channels of a convolution or linear layer, input channels, or both where they are the same: norms,
depthwise convolutions, attention layers, parameters."""


@dataclass(frozen=True)
class Member:
    """Channels of one layer, or of one parameter that belongs to no layer."""

    name: str
    """Dotted name of the layer or parameter."""
    side: Side
    indices: Tensor
    """Its channels (M,)."""
    roots: Tensor
    """For each of them the channel of the group that it belongs to (M,)."""


@dataclass(frozen=True)
class Group:
    """Channels that are cut together.

    A channel of the group stands for one or more channels of each member: a convolution, the norm after it,
    all convolutions that are added to it, and the layers that receive it.
    """

    name: str
    """Of its first layer."""
    size: int
    """Number of its channels."""
    parts: int
    """Parts of equal size, of which the same channels go: groups of a convolution or of a group norm."""
    in_sum: bool
    """Whether its channels are added to those of another layer."""
    attention: str | None
    """The attention module inside which these channels are queries, keys and values; None for others."""
    attends: tuple[str, ...]
    """Attention modules that receive these channels."""
    members: tuple[Member, ...]

    def renamed(self, before: str, after: str) -> Group:
        """Return the group with another beginning of all names."""

        def new(name: str) -> str:
            return after + name.removeprefix(before)

        return replace(
            self,
            name=new(self.name),
            attention=None if self.attention is None else new(self.attention),
            attends=tuple(map(new, self.attends)),
            members=tuple(replace(one, name=new(one.name)) for one in self.members),
        )


@dataclass(frozen=True)
class Attention:
    """An attention module with several heads."""

    name: str
    heads: int


@dataclass(frozen=True)
class Groups:
    """All groups of a network."""

    groups: tuple[Group, ...]
    attentions: dict[str, Attention]
    """By their names."""
    every: bool = True
    """Whether all channels of the network are in a group, but for those of its logits."""


LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention)
"""Layers with weights between all of their channels."""
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)

_WIDTHS = {
    "out": ("out_channels", "out_features", "embed_dim"),
    "in": ("in_channels", "in_features", "embed_dim"),
    "both": ("out_channels", "num_features", "num_channels", "embed_dim", "num_parameters", "embedding_dim"),
}


def width_of(module: nn.Module, side: Side) -> int:
    """Return the number of channels of one side of a layer; of one unknown here, that of its parameters."""
    for name in _WIDTHS[side]:
        if isinstance(value := getattr(module, name, None), int):
            return value
    if isinstance(module, nn.LayerNorm):
        return int(module.normalized_shape[-1])
    return max((width_of_parameter(value) for value in module.parameters(recurse=False)), default=1)


def width_of_parameter(value: Tensor) -> int:
    """Return the size of a parameter's cut dimension, the last one above one."""
    return next((size for size in reversed(value.shape) if size > 1), 1)


def largest(importance: Tensor, count: int) -> Tensor:
    """Return the places of the largest values; of equal ones, the first."""
    return torch.argsort(importance, descending=True, stable=True)[:count]
