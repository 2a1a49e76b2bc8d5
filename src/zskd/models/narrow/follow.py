"""Follow channels through a network: which of them must go together (Fang et al. 2023, arXiv:2301.12900).

The graph is that of torch-pruning. Only what its dependency graph finds in the untouched network is taken
over, as plain tensors of indices. Whether it is right, `checks` finds out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from zskd.core.errors import ZskdError, one_line
from zskd.models.narrow.groups import Attention, Group, Groups, Member
from zskd.models.narrow.members import (
    computed_layers,
    count_parts,
    is_whole,
    join_queries,
    read_members,
    repeat_members,
)
from zskd.models.narrow.parting import Parted
from zskd.models.narrow.tracing import Entered, Read, dependency_graph, find_sums
from zskd.models.preparation import copied


def find_groups(
    network: nn.Module, image: Tensor, *, training: bool = False, read: Read | None = None
) -> Groups:
    """Return the groups of channels of a network that can be cut; those of input and logits cannot.

    Args:
        network: left as it is.
        image: one normalised image (1, C, H, W).
        training: whether to follow what the network does in training mode, where it has further outputs.
        read: reads the class scores, if other outputs, whose channels could not be cut, are left out.

    Raises:
        ZskdError: its channels cannot be followed.
    """
    network = copied(network)
    for value in network.parameters():
        value.requires_grad_(value.is_floating_point())
    try:
        found, every = _all_groups(dependency_graph(network, (image,), training, read), network)
        found = repeat_members(found, network)
    except Exception as error:  # the user's network and the tracing may raise any exception
        found, every = _between_shuffles(network, image) or list(_inside_children(network, image)), False
        if not found:
            raise ZskdError(f"its channels cannot be followed ({one_line(error)[:200]})") from error
    return Groups(tuple(found), _attentions(network), every)


def _between_shuffles(network: nn.Module, image: Tensor) -> list[Group]:
    """Return the groups whose channels are not shuffled; none where the network cannot be followed so."""
    try:
        parted = Parted(network, image)
        if not len(parted.marks):
            return []
        found, _ = _all_groups(dependency_graph(parted, (image,), False), parted)
    except Exception:  # as above
        return []
    return [one.renamed("module.", "") for one in repeat_members(found, parted)]


def _inside_children(network: nn.Module, image: Tensor) -> Iterator[Group]:
    """Yield the groups inside those modules that can be followed by themselves, the largest modules first."""
    inputs: dict[nn.Module, tuple[Any, ...]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda module, given: inputs.setdefault(module, given))
        for module in network.modules()
    ]
    try:
        with torch.no_grad():
            network.eval()(image)
    except Exception:  # the user's network may raise any exception
        return
    finally:
        for hook in hooks:
            hook.remove()

    def inside(module: nn.Module, prefix: str) -> Iterator[Group]:
        for name, child in module.named_children():
            given = inputs.get(child, ())
            try:
                assert given
                assert all(isinstance(one, Tensor) for one in given)
                entered = Entered(child, given)
                found, _ = _all_groups(dependency_graph(entered, given, False), entered)
            except Exception:  # as above: look inside
                yield from inside(child, f"{prefix}{name}.")
            else:
                yield from (one.renamed("module.", f"{prefix}{name}.") for one in found)

    yield from inside(network, "")


def _all_groups(graph: Any, network: nn.Module) -> tuple[list[Group], bool]:
    """Return each group once, except those of the logits, and whether all of them can be cut."""
    names = {module: name for name, module in network.named_modules()}
    names |= {value: name for name, value in network.named_parameters()}
    fixed, attentions = computed_layers(network), _attentions(network)
    sums = find_sums(graph)
    seen: set[str] = set()
    groups: list[Group] = []
    every = True
    for module in list(graph.module2node):
        if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear) or names[module] in seen:
            continue
        pruner = graph.get_pruner_of_module(module)
        found = graph.get_pruning_group(
            module, pruner.prune_out_channels, list(range(pruner.get_out_channels(module)))
        )
        found = _by_consumer(graph, found)
        members = join_queries(read_members(graph, found, names), network)
        seen |= {names[module], *(one.name for one in members if one.side != "in")}
        if any(_is_end(dep.target.module, names) for dep, _ in found):
            continue
        size = 1 + max(int(one.roots.max()) for one in members)
        parts = count_parts(members, network)
        if not is_whole(members, network) or fixed & {one.name for one in members} or size % parts:
            every = False
        elif size > 1:
            in_sum = any(dep.target in sums for dep, _ in found)
            groups.append(_group(names[module], size, parts, in_sum, members, attentions))
    return groups, every


def _group(
    name: str,
    size: int,
    parts: int,
    in_sum: bool,
    members: list[Member],
    attentions: dict[str, Attention],
) -> Group:
    """Return a group, and of which attention modules it is the inside or the input."""
    in_sum = in_sum and len([one for one in members if one.side == "out"]) > 1
    inside, attends = (
        [
            one
            for one in attentions
            if one and any(m.name.rpartition(".")[0] == one and m.side == side for m in members)
        ]
        for side in ("out", "in")
    )
    attention = inside[0] if inside and not in_sum else None
    return Group(name, size, parts, in_sum, attention, tuple(attends), tuple(members))


def _is_end(module: Any, names: dict[Any, str]) -> bool:
    """Return whether a node is the output of the network, or the input of a module of it."""
    return type(module).__name__ == "_OutputOp" or (
        isinstance(module, nn.Parameter) and names.get(module, "").startswith("marks.")
    )


def _by_consumer(graph: Any, whole: Any) -> Any:
    """Return a group as seen by the layer that receives it, where one layer makes several inputs of it.

    Queries, keys and values come from one linear layer: a channel of the layer after the attention stands for
    one of each.
    """
    size = len(whole[0].idxs)
    for dep, indices in whole:
        module = dep.target.module
        pruner = graph.get_pruner_of_module(module)
        if not isinstance(module, nn.Linear | nn.Conv2d) or dep.handler == pruner.prune_out_channels:
            continue
        if len(indices) < size and len(indices) == graph.get_in_channels(module):
            other = graph.get_pruning_group(module, pruner.prune_in_channels, list(range(len(indices))))
            outs = {d.target.module: len(i) for d, i in other if d.handler != pruner.prune_in_channels}
            if outs.get(whole[0].dep.target.module) == size:
                return other
    return whole


def _attentions(network: nn.Module) -> dict[str, Attention]:
    """Return the attention modules, and how many heads each has."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            found[name] = Attention(name, module.num_heads)
        elif any(isinstance(child, nn.Linear | nn.Conv2d) for child in module.children()):
            heads = [
                value
                for key, value in vars(module).items()
                if type(value) is int and value > 1 and "heads" in key and "dim" not in key
            ]
            if heads:
                found[name] = Attention(name, max(heads))
    return found
