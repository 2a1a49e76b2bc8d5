"""How many channels of each group a narrower copy of a network has, read from the two networks alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from zskd.core.errors import ZskdError
from zskd.models.narrow.cut import Cut, Scope, cut_groups
from zskd.models.narrow.follow import find_groups
from zskd.models.narrow.groups import Group, Groups, largest, width_of, width_of_parameter


@dataclass(frozen=True)
class Share:
    """What stays of a group of channels."""

    group: Group
    count: int
    """Number of channels that stay."""
    units: int
    """The channels are so many units of equal size; where whole heads go, …"""
    heads: bool
    """… these are the units. Otherwise as many channels of each unit stay, and those at the same places."""

    def choose(self, importance: Tensor) -> Tensor:
        """Return for each channel whether it stays (size,), by the importance of each (size,)."""
        stays = torch.zeros(self.group.size, dtype=torch.bool)
        by_unit = importance.view(self.units, -1)
        if self.heads:
            whole = self.count * self.units // self.group.size
            stays.view(self.units, -1)[largest(by_unit.sum(1), whole)] = True
        else:
            stays.view(self.units, -1)[:, largest(by_unit.sum(0), self.count // self.units)] = True
        return stays


@dataclass(frozen=True)
class Match:
    """A network and the shape of a narrower copy of it."""

    network: nn.Module
    groups: Groups
    shares: tuple[Share, ...]
    """Of the groups that the copy has fewer channels of."""

    def cut(self, importance: Mapping[str, Tensor]) -> Cut:
        """Return a copy of this shape with the most important channels, by the names of the groups."""
        heads = any(one.heads for one in self.shares)
        stays = {one.group.name: one.choose(importance[one.group.name]) for one in self.shares}
        return cut_groups(self.network, self.groups, stays, Scope(attention="heads" if heads else "widths"))


def match_copy(network: nn.Module, copy: nn.Module, image: Tensor) -> Match | None:
    """Return what a narrower copy has of the groups of a network, whatever its weights.

    Args:
        network: left as it is.
        copy: left as it is; blocks of it may be left out.
        image: one normalised image (1, C, H, W).

    Returns:
        None where it is no copy: it has other modules, or shapes that no cut of whole groups gives.
    """
    if not _is_alike(network, copy):
        return None
    if _fits(network, copy):
        return Match(network, Groups((), {}), ())
    try:
        groups, of_copy = find_groups(network, image), find_groups(copy, image)
        shares = tuple(_shares(groups, of_copy, network, copy))
        match = Match(network, groups, shares)
        made = match.cut({one.group.name: -torch.arange(one.group.size) for one in shares})
    except (ZskdError, RuntimeError, IndexError):  # the channels of a group are not where they should be
        return None
    return match if _fits(made.network, copy) else None


def _shares(groups: Groups, of_copy: Groups, network: nn.Module, copy: nn.Module) -> Iterator[Share]:
    for group in groups.groups:
        count = _count(group, network, copy)
        if count == group.size:
            continue
        heads, units = False, group.parts
        if group.attention is not None:
            units = groups.attentions[group.attention].heads
            left = of_copy.attentions.get(group.attention)  # a single head is no group
            heads = left is None or left.heads < units
        yield Share(group, count, units, heads)


def _count(group: Group, network: nn.Module, copy: nn.Module) -> int:
    """Return how many channels of a group a copy has; all where none of its layers shows it."""
    before, after = (dict(one.named_modules()) for one in (network, copy))
    values, values_of_copy = (dict(one.named_parameters()) for one in (network, copy))
    for one in group.members:
        if one.name in values and one.name in values_of_copy:
            widths = width_of_parameter(values[one.name]), width_of_parameter(values_of_copy[one.name])
        elif one.name in before and one.name in after and _is_there(after[one.name], before[one.name]):
            widths = width_of(before[one.name], one.side), width_of(after[one.name], one.side)
        else:
            continue
        if len(one.indices) == widths[0] and widths[1] * group.size % widths[0] == 0:
            return widths[1] * group.size // widths[0]
    return group.size


def _is_alike(network: nn.Module, copy: nn.Module) -> bool:
    """Whether a copy has the modules of a network, but for those inside blocks that are left out."""
    of_copy, left_out = dict(copy.named_modules()), ""
    for name, module in network.named_modules():
        if left_out and name.startswith(left_out):
            continue
        own = of_copy.pop(name, None)
        if own is None:
            return False
        # each torch.fx.GraphModule, as of an ONNX file, has a class of its own
        if type(own) is not type(module) and not (
            isinstance(own, GraphModule) and isinstance(module, GraphModule)
        ):
            if _is_there(own, module):
                return False
            left_out = f"{name}."
    return not of_copy


def _is_there(own: nn.Module, module: nn.Module) -> bool:
    """Whether a module of a copy is not one without weights that stands for a block."""
    return bool(list(own.parameters())) or not list(module.parameters())


def _fits(made: nn.Module, copy: nn.Module) -> bool:
    """Whether each tensor of a copy has the shape of that in another network."""
    shapes, own = ({key: value.shape for key, value in one.state_dict().items()} for one in (made, copy))
    return shapes.items() >= own.items()
