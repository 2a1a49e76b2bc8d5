"""Which channels of which layers belong to a group, read from torch-pruning's dependency graph."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zskd.models.narrow.groups import Group, Member, Side, width_of


def read_members(graph: Any, whole: Any, names: dict[Any, str]) -> list[Member]:
    """Return the members of a group of torch-pruning, but for operations without weights.

    Args:
        graph: torch-pruning's.
        whole: its group, with all channels.
        names: of the network's modules and parameters.
    """
    members = []
    for item in whole:
        module, handler = item.dep.target.module, item.dep.handler
        if module not in names:
            continue  # an operation without weights
        if isinstance(module, nn.Parameter):
            if len(item.idxs) != graph.get_out_channels(item.dep.target):
                continue  # it is broadcast over the channels
            side: Side = "both"
        else:
            pruner = graph.get_pruner_of_module(module)
            same = pruner.prune_out_channels == pruner.prune_in_channels
            side = "both" if same else "out" if handler == pruner.prune_out_channels else "in"
            if graph.get_out_channels(module) is None:
                continue  # one value for all channels
        members.append(
            Member(
                names[module], side, torch.tensor(item.idxs), torch.tensor([int(r) for r in item.root_idxs])
            )
        )
    return members


def join_queries(members: list[Member], network: nn.Module) -> list[Member]:
    """Return the members of queries, keys and values that are made by one layer and taken apart by an index:
    torch-pruning does not follow that."""
    modules = dict(network.named_modules())
    makers = [one for one in members if one.side == "out"]
    takers = [one for one in members if one.side == "in"]
    if len(makers) != 1 or not takers:
        return members
    size = width_of(modules[takers[0].name], "in")
    if len(makers[0].indices) != 3 * size or int(takers[0].indices.max()) < size:
        return members
    channels = torch.arange(size)
    return [
        replace(makers[0], indices=torch.arange(3 * size), roots=channels.repeat(3)),
        *(replace(one, indices=channels, roots=channels) for one in takers),
    ]


def repeat_members(groups: list[Group], network: nn.Module) -> list[Group]:
    """Return the groups where a layer receives the channels of several places beside each other, as that of
    Swin which joins patches: torch-pruning follows the first places alone."""
    modules = dict(network.named_modules())
    covered: dict[tuple[str, Side], list[Tensor]] = {}
    for group in groups:
        for one in group.members:
            covered.setdefault((one.name, one.side), []).append(one.indices)

    def repeated(one: Member, size: int) -> Member:
        module = modules.get(one.name)
        if module is None or one.side == "out" or len(covered[one.name, one.side]) > 1:
            return one
        width = width_of(module, one.side)
        if len(one.indices) == width or width % size:
            return one
        return replace(one, indices=torch.arange(width), roots=torch.arange(size).repeat(width // size))

    return [
        replace(group, members=tuple(repeated(one, group.size) for one in group.members)) for group in groups
    ]


def is_whole(members: list[Member], network: nn.Module) -> bool:
    """Return whether every index is one of its layer, and every layer that makes channels gives all."""
    modules, values = dict(network.named_modules()), dict(network.named_parameters())
    for one in members:
        if one.name in values:
            continue
        width = width_of(modules[one.name], one.side)
        if len(one.indices) > width or int(one.indices.max()) >= width:
            return False
    return True


def count_parts(members: list[Member], network: nn.Module) -> int:
    """Return into how many parts of equal size the channels of a group fall."""
    modules, parts = dict(network.named_modules()), 1
    for one in members:
        module = modules.get(one.name)
        if isinstance(module, nn.modules.conv._ConvNd) and one.side != "both":
            parts = math.lcm(parts, module.groups)
        elif isinstance(module, nn.GroupNorm) and module.num_groups != module.num_channels:
            parts = math.lcm(parts, module.num_groups)
        elif isinstance(module, nn.MultiheadAttention):
            parts = math.lcm(parts, module.num_heads)
    return parts


def computed_layers(network: nn.Module) -> set[str]:
    """Return the layers whose weights are computed from others or belong to several layers."""
    owners: dict[int, list[str]] = {}
    found = set()
    for name, module in network.named_modules():
        for value in module._parameters.values():
            if value is not None:
                owners.setdefault(id(value), []).append(name)
        plain = "weight" in module._parameters or not isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
        if not plain or hasattr(module, "parametrizations"):
            found.add(name)
    return found | {name for several in owners.values() if len(several) > 1 for name in several}
