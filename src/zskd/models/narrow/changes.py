"""What makes a network narrower or less deep, as data: for a card, from which nothing is run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from zskd.core.artefact import Artefact, AtLeastOne
from zskd.core.errors import ZskdError
from zskd.models.narrow.skip import Skip

Number = AtLeastOne | tuple[int, ...]


class Changes(Artefact):
    """How a network differs from the one that it is a copy of."""

    attributes: dict[str, dict[str, Number]] = Field(default_factory=dict)
    """Name of a module → its numbers of channels, groups, heads and so on that changed."""
    shapes: dict[str, tuple[AtLeastOne, ...]] = Field(default_factory=dict)
    """Name of a parameter or buffer → its new shape."""
    dropped: tuple[str, ...] = ()
    """Names of residual blocks that are left out."""


def find_changes(before: nn.Module, after: nn.Module) -> Changes:
    """Return how a narrower copy differs from its original.

    Args:
        before: the original.
        after: the copy, with modules of the same names.
    """
    modules = dict(after.named_modules())
    dropped = tuple(name for name, one in modules.items() if isinstance(one, Skip))
    attributes: dict[str, dict[str, Number]] = {}
    for name, module in before.named_modules():
        if name not in modules or name in dropped:
            continue
        new = vars(modules[name])
        changed = {
            key: new[key] for key, value in vars(module).items() if _is_size(value) and new[key] != value
        }
        if changed:
            attributes[name] = changed
    tensors = dict(_tensors(after))
    shapes = {
        name: tuple(tensors[name].shape)
        for name, value in _tensors(before)
        if name in tensors and tensors[name].shape != value.shape
    }
    return Changes(attributes=attributes, shapes=shapes, dropped=dropped)


def apply_changes(network: nn.Module, changes: Changes) -> nn.Module:
    """Make a network as narrow as its card says, in place, with new random weights where shapes change.

    Changed layers are initialised by their own `reset_parameters`, other parameters with the mean and the
    spread of those that were there.

    Args:
        network: as its architecture builds it; changed.
        changes: from a card.

    Raises:
        ZskdError: the changes are not of this network, or would make something larger.
    """
    for name in changes.dropped:
        _drop(network, name)
    modules, tensors = dict(network.named_modules(remove_duplicate=False)), dict(_tensors(network))
    for name, values in changes.attributes.items():
        for key, new in values.items():
            old = vars(modules[name]).get(key) if name in modules else None
            if not _is_size(old) or not _is_smaller(new, old):
                raise _damaged(f"{name or 'the network'} has no {key} that could be {new}")
            setattr(modules[name], key, new)
    owners: dict[str, dict[str, Tensor]] = {}
    for name, shape in changes.shapes.items():
        value = tensors.get(name)
        if value is None or not _is_smaller(tuple(shape), tuple(value.shape)):
            raise _damaged(f"{name} cannot have the shape {tuple(shape)}")
        owner, _, own = name.rpartition(".")
        if getattr(modules[owner], own) is not value:
            continue  # a module of two names has it already
        owners.setdefault(owner, {})[own] = value
        new_value = value.new_zeros(shape)
        if isinstance(value, nn.Parameter):
            setattr(modules[owner], own, nn.Parameter(new_value, requires_grad=value.requires_grad))
        else:
            setattr(modules[owner], own, new_value)
    for owner, olds in owners.items():
        _initialise(modules[owner], olds)
    return network


def initialise_all(network: nn.Module) -> nn.Module:
    """Give every layer that can reset itself new random weights, in place: nothing of another training stays.

    Args:
        network: changed.
    """
    for module in network.modules():
        if not list(module.children()) and callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return network


def drop_block(network: nn.Module, name: str) -> None:
    """Leave a block of a sequence out: its input becomes its output.

    Args:
        network: changed.
        name: of the block.
    """
    owner, _, own = name.rpartition(".")
    setattr(network.get_submodule(owner), own, Skip())


def _drop(network: nn.Module, name: str) -> None:
    modules = dict(network.named_modules())
    if not name or name not in modules:
        raise _damaged(f"there is no block {name!r}")
    drop_block(network, name)


def _damaged(why: str) -> ZskdError:
    return ZskdError(f"the architecture in the card is damaged: {why}")


def _is_size(value: Any) -> bool:
    return type(value) is int or (
        isinstance(value, tuple) and bool(value) and all(type(one) is int for one in value)
    )


def _is_smaller(new: Any, old: Any) -> bool:
    """Return whether a number, or each of a tuple, is at least 1 and not above the old one."""
    if isinstance(old, tuple):
        return isinstance(new, tuple) and len(new) == len(old) and all(map(_is_smaller, new, old))
    return type(new) is int and (1 <= new <= old or new == old)


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters(remove_duplicate=False)
    yield from network.named_buffers(remove_duplicate=False)


def _initialise(module: nn.Module, olds: dict[str, Tensor]) -> None:
    """Give new values to the tensors of a module whose shapes changed."""
    reset = getattr(
        module, "_reset_parameters" if isinstance(module, nn.MultiheadAttention) else "reset_parameters", None
    )
    if callable(reset) and (not list(module.children()) or isinstance(module, nn.MultiheadAttention)):
        with suppress(Exception):  # that of a library may need what is not there
            reset()
            return
    with torch.no_grad():
        for name, old in olds.items():
            value = getattr(module, name)
            if value.is_floating_point():
                spread = float(old.float().std()) if old.numel() > 1 else 0.0
                value.normal_(float(old.float().mean()), spread)
