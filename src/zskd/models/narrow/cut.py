"""Cut channels out of a network: the same share of each group, those of the lowest scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from zskd.models.narrow.follow import find_groups
from zskd.models.narrow.groups import LAYERS, NORMS, Group, Groups, Member, Side, largest, width_of
from zskd.models.narrow.scoring import Makers
from zskd.models.narrow.slicing import Kept, set_heads, set_sizes_of_containers, take_channels
from zskd.models.preparation import copied


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Which groups of channels are cut."""

    sums: bool = True
    """Those that are added to others, too: the widths between residual blocks."""
    attention: Literal["heads", "widths", "none"] = "heads"
    """Whether attention loses whole heads, the width of each head, or nothing."""
    left: tuple[str, ...] = ()
    """Names of groups that are not cut, because the network does not allow it."""
    training: bool = False
    """Whether the layers that run only in training mode are followed, too."""


@dataclass(frozen=True)
class Cut:
    """A narrower copy of a network, and what of the network it is made of."""

    network: nn.Module
    """The copy, with weights of the original, in evaluation mode where the original is."""
    outputs: Mapping[str, Tensor]
    """Name of each convolution, linear, attention and norm layer → numbers of the original output channels
    that stay."""
    inputs: Mapping[str, Tensor]
    """The same for the input channels of convolutions, linear and attention layers."""
    how: str
    """What was cut: "all channels", "channels inside blocks"."""
    parameters: Mapping[str, Tensor]
    """Name of each cut parameter that belongs to no such layer → numbers along its cut dimension."""


def cut_channels(
    network: nn.Module,
    image: Tensor,
    ratio: float,
    *,
    scope: Scope,
    groups: Groups | None = None,
) -> Cut:
    """Return a narrower copy of a network. Its shapes depend on those of the network alone.

    In each group of channels that must go together (Fang et al. 2023, arXiv:2301.12900) this share stays,
    those with the largest weights. It is rounded to multiples of 8 where a layer has 64 or more, of 4 where
    it has 16 or more; at least one stays.

    Args:
        network: left as it is.
        image: one normalised image (1, C, H, W) that it takes.
        ratio: share of the channels that stay, above 0, at most 1.
        scope: which groups are cut.
        groups: of this network, if they are known already.

    Raises:
        ZskdError: the channels of the network cannot be followed, or it cannot be copied.
    """
    groups = groups or find_groups(network, image, training=scope.training)
    makers = Makers(network)
    stays = {one.name: _stays(one, groups, scope, ratio, makers) for one in chosen(groups, scope)}
    return cut_groups(network, groups, stays, scope)


def cut_groups(network: nn.Module, groups: Groups, stays: Mapping[str, Tensor], scope: Scope) -> Cut:
    """Return a narrower copy of a network with chosen channels of each group.

    Args:
        network: left as it is.
        groups: of this network.
        stays: for the groups that are cut, by their names: for each channel whether it stays (size,).
        scope: says whether attention loses whole heads or the width of each.

    Raises:
        ZskdError: it cannot be copied, or groups of a convolution would have different sizes.
    """
    kept: dict[tuple[str, Side], Tensor] = {}
    inner: dict[str, tuple[int, int]] = {}
    makers = Makers(network)
    for group in groups.groups:
        if group.name not in stays:
            continue
        staying = stays[group.name]
        if group.attention is not None:
            inner[group.attention] = group.size, int(staying.sum())
        for member in group.members:
            _remove(kept, member, staying, makers)
    copy = copied(network)
    take_channels(copy, kept)
    set_sizes_of_containers(copy, _sizes(kept, makers))
    for name, width in inner.items():
        heads = groups.attentions[name].heads
        after = width[1] * heads // width[0] if scope.attention == "heads" else heads
        set_heads(copy, name, width, (heads, after))
    return _described(copy, network, kept, words(groups, scope))


def chosen(groups: Groups, scope: Scope) -> list[Group]:
    """Return the groups that a scope cuts."""
    return [
        one
        for one in groups.groups
        if one.name not in scope.left
        and (scope.sums or not one.in_sum)
        and (scope.attention != "none" or one.attention is None)
    ]


def words(groups: Groups, scope: Scope) -> str:
    """Return what a scope cuts, for messages."""
    some = chosen(groups, scope)
    if groups.every and len(some) == len(groups.groups):
        return "all channels"
    return "most channels" if any(one.in_sum for one in some) else "channels inside blocks"


def channels_kept(size: int, parts: int, ratio: float) -> int:
    """Return how many channels of each part stay.

    Args:
        size: channels of all parts together.
        parts: that have the same number.
        ratio: share that stays.
    """
    each = size // parts
    if ratio >= 1:
        return each
    multiple = 8 if size >= 64 else 4 if size >= 16 else 1
    while multiple > 1 and size * ratio < multiple:
        multiple //= 2
    step = multiple // math.gcd(multiple, parts)
    return min(each, max(1, min(step, each), round(each * ratio / step) * step))


def _stays(group: Group, groups: Groups, scope: Scope, ratio: float, makers: Makers) -> Tensor:
    """Return for each channel of a group whether it stays (size,), true or false."""
    importance = makers.importance(group)
    stays = torch.zeros(group.size, dtype=torch.bool)
    if group.attention is not None and scope.attention == "heads":
        heads = groups.attentions[group.attention].heads
        if group.size % heads:
            return ~stays
        best = largest(
            importance.view(heads, -1).mean(1), max(1, round(heads * ratio)) if ratio < 1 else heads
        )
        stays.view(heads, -1)[best] = True
        return stays
    parts = group.parts
    if scope.attention == "widths":
        inside = (group.attention,) if group.attention else group.attends
        parts = math.lcm(parts, *(groups.attentions[one].heads for one in inside))
    if group.size % parts:
        return ~stays
    best = largest(importance.view(parts, -1).mean(0), channels_kept(group.size, parts, ratio))
    stays.view(parts, -1)[:, best] = True
    return stays


def _remove(kept: dict[tuple[str, Side], Tensor], member: Member, stays: Tensor, makers: Makers) -> None:
    """Take the channels that do not stay from what is kept of a layer."""
    key = member.name, member.side
    width = makers.width(member)
    present = torch.ones(width, dtype=torch.bool)
    if key in kept:
        present = torch.zeros(width, dtype=torch.bool)
        present[kept[key]] = True
    present[member.indices[~stays[member.roots]]] = False
    kept[key] = present.nonzero().flatten()


def _sizes(kept: Kept, makers: Makers) -> dict[str, dict[int, set[int]]]:
    """Return the numbers of channels before and after, by layer, also of layers that are not cut."""
    sizes: dict[str, dict[int, set[int]]] = {}
    sides: tuple[Side, ...] = ("out", "in", "both")
    attentions = [name for name, one in makers.modules.items() if isinstance(one, nn.MultiheadAttention)]
    for name, module in makers.modules.items():
        if any(name.startswith(f"{one}.") for one in attentions):
            continue
        for side in sides:
            indices = kept.get((name, side))
            if indices is not None:
                sizes.setdefault(name, {}).setdefault(width_of(module, side), set()).add(len(indices))
            elif side != "both" and isinstance(module, LAYERS) and (name, "both") not in kept:
                width = width_of(module, side)
                sizes.setdefault(name, {}).setdefault(width, set()).add(width)
    return sizes


def _described(copy: nn.Module, network: nn.Module, kept: Kept, how: str) -> Cut:
    outputs, inputs = {}, {}

    def of(name: str, module: nn.Module, side: Side) -> Tensor:
        for key in ((name, side), (name, "both")):
            if key in kept:
                return kept[key]
        return torch.arange(width_of(module, side))

    for name, module in network.named_modules():
        if isinstance(module, LAYERS):
            outputs[name], inputs[name] = of(name, module, "out"), of(name, module, "in")
        elif isinstance(module, NORMS) or (name, "both") in kept:
            outputs[name] = of(name, module, "both")
    values = dict(network.named_parameters())
    own = {name: indices for (name, _), indices in kept.items() if name in values}
    return Cut(copy, outputs, inputs, how, own)
