"""Take some channels of a network's layers: their weights, and the numbers that tell a layer its size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zskd.core.errors import ZskdError
from zskd.models.narrow.groups import Side

Kept = Mapping[tuple[str, Side], Tensor]
"""Channels that stay, in order, by layer and side."""
_SIZES = re.compile(r"dim|channel|feature|plane|width|hidden|embed|all_head_size|inner")
"""Attributes of a module that can hold a number of channels, …"""
_NO_SIZES = re.compile(r"head_dim|patch|image|img|kernel|window|resolution|num_heads|dilat|stride|grid")
"""… and those that hold another number."""


def take_channels(network: nn.Module, kept: Kept) -> None:
    """Leave only some channels of a network's layers and parameters, in place.

    Args:
        network: changed.
        kept: what stays.

    Raises:
        ZskdError: the groups of a convolution would have different sizes.
    """
    modules, parameters = dict(network.named_modules()), dict(network.named_parameters())
    with torch.no_grad():
        for (name, side), indices in kept.items():
            if name in parameters:
                _take_of_parameter(modules, name, indices)
            elif isinstance(module := modules[name], nn.modules.conv._ConvNd):
                _take_of_convolution(module, side, indices)
            elif isinstance(module, nn.Linear):
                _take(module, "weight", 0 if side == "out" else 1, indices)
                if side == "out":
                    _take(module, "bias", 0, indices)
                setattr(module, "out_features" if side == "out" else "in_features", len(indices))
            elif isinstance(module, nn.MultiheadAttention):
                _take_of_attention(module, indices)
            else:
                _take_of_norm(module, indices)


def _take(module: nn.Module, name: str, dim: int, indices: Tensor) -> None:
    value = getattr(module, name, None)
    if value is None:
        return
    taken = value.detach().index_select(dim, indices.to(value.device))
    if isinstance(value, nn.Parameter):
        setattr(module, name, nn.Parameter(taken, requires_grad=value.requires_grad))
    else:
        setattr(module, name, taken)


def _take_of_convolution(module: nn.modules.conv._ConvNd, side: Side, indices: Tensor) -> None:
    transposed = int(module.transposed)
    if side == "both":  # depthwise
        _take(module, "weight", 0, indices)
        _take(module, "bias", 0, indices)
        module.in_channels = module.out_channels = module.groups = len(indices)
        return
    if len(indices) % module.groups:
        raise ZskdError("the groups of a convolution would have different sizes")
    if side == "out":
        if transposed and module.groups > 1:
            raise ZskdError("a transposed convolution has groups")
        _take(module, "weight", transposed, indices)
        _take(module, "bias", 0, indices)
        module.out_channels = len(indices)
    else:
        own = indices if module.groups == 1 else indices[: len(indices) // module.groups]
        _take(module, "weight", 1 - transposed, own)
        module.in_channels = len(indices)


def _take_of_norm(module: nn.Module, indices: Tensor) -> None:
    """Take channels of a norm, of a PReLU with one weight for each channel, or of an embedding."""
    if isinstance(module, nn.Embedding):
        _take(module, "weight", 1, indices)
        module.embedding_dim = len(indices)
        return
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(module, name, None)
        if isinstance(value, Tensor):
            _take(module, name, value.ndim - 1, indices)
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = (*module.normalized_shape[:-1], len(indices))
    elif isinstance(module, nn.GroupNorm):
        if module.num_groups == module.num_channels:
            module.num_groups = len(indices)
        module.num_channels = len(indices)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(indices)
    else:
        module.num_features = len(indices)  # type: ignore[assignment]


def _take_of_attention(module: nn.MultiheadAttention, indices: Tensor) -> None:
    """Take channels of the width of an attention layer, as many of each head."""
    width = module.embed_dim
    three = torch.cat([indices + part * width for part in range(3)])
    _take(module, "in_proj_weight", 0, three)
    _take(module, "in_proj_weight", 1, indices)
    _take(module, "in_proj_bias", 0, three)
    for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        _take(module, name, 0, indices)
        _take(module, name, 1, indices)
    for name in ("bias_k", "bias_v"):
        _take(module, name, 2, indices)
    for dim in (0, 1):
        _take(module.out_proj, "weight", dim, indices)
    _take(module.out_proj, "bias", 0, indices)
    module.out_proj.in_features = module.out_proj.out_features = len(indices)
    module.embed_dim = module.kdim = module.vdim = len(indices)
    module.head_dim = len(indices) // module.num_heads


def _take_of_parameter(modules: Mapping[str, nn.Module], name: str, indices: Tensor) -> None:
    """Take channels of a parameter, which are its last dimension above one."""
    owner, _, own = name.rpartition(".")
    module = modules[owner]
    value = getattr(module, own)
    dim = max(i for i, size in enumerate(value.shape) if size > 1)
    before = value.shape[dim]
    _take(module, own, dim, indices)
    if not list(module.children()):
        _set_sizes(module, {before: len(indices)}, every=True)


def set_sizes_of_containers(network: nn.Module, sizes: Mapping[str, Mapping[int, set[int]]]) -> None:
    """Tell modules that keep a number of channels of the layers inside them, `hidden_dim`, the new one.

    A number is changed where all layers inside that had so many channels have the same new one.

    Args:
        network: after `take_channels`; changed.
        sizes: numbers of channels, before → after, by the names of all layers.
    """
    for name, module in network.named_modules():
        if not list(module.children()) or isinstance(module, nn.MultiheadAttention):
            continue
        inside: dict[int, set[int]] = {}
        for layer, pairs in sizes.items():
            if not name or layer.startswith(f"{name}."):
                for before, after in pairs.items():
                    inside.setdefault(before, set()).update(after)
        _set_sizes(module, {before: min(after) for before, after in inside.items() if len(after) == 1})


def set_heads(network: nn.Module, name: str, width: tuple[int, int], heads: tuple[int, int]) -> None:
    """Tell an attention module the width of its queries and the number of its heads.

    Args:
        network: changed.
        name: of the module.
        width: of all heads together, before and after.
        heads: before and after.
    """
    module = network.get_submodule(name)
    each = width[0] // heads[0], width[1] // heads[1]
    for key, value in list(vars(module).items()):
        if type(value) is not int:
            continue
        if value == heads[0] and "heads" in key:
            setattr(module, key, heads[1])
        elif value == each[0] and re.search(r"head_(dim|size)|dim_head|key_dim", key):
            setattr(module, key, each[1])
        elif value == width[0] and re.search(r"attn_dim|all_head_size|inner|embed_dim", key):
            setattr(module, key, width[1])


def _set_sizes(module: nn.Module, sizes: Mapping[int, int], *, every: bool = False) -> None:
    """Replace numbers of channels in a module's own attributes."""
    for key, value in vars(module).items():
        if key.startswith("_") or not (every or (_SIZES.search(key) and not _NO_SIZES.search(key))):
            continue
        setattr(module, key, _resized(value, sizes))


def _resized(value: Any, sizes: Mapping[int, int]) -> Any:
    if type(value) is int:
        return sizes.get(value, value)
    if isinstance(value, tuple) and value and all(type(one) is int for one in value):
        return tuple(sizes.get(one, one) for one in value)
    return value
