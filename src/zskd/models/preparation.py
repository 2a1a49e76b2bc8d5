"""What is done to a network before it is run: it is copied, in float32, in the faster memory layout."""

from __future__ import annotations

import copy as copying

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd.core.errors import ZskdError, has_hidden, one_line
from zskd.core.types import Images
from zskd.models.modes import in_mode

_PROBES = 8
"""Images on which it is found out what a network returns."""


def copied(module: nn.Module) -> nn.Module:
    """Return a copy of a network.

    Raises:
        ZskdError: it cannot be copied.
    """
    # a weight that a hook computes from others (weight norm) is part of a graph; the hook computes it again
    hooks = [(layer, hook) for layer in module.modules() for hook in layer._forward_pre_hooks.values()]
    values = [vars(layer).get(getattr(hook, "name", ""), None) for layer, hook in hooks]
    computed = {id(value): value.detach().clone() for value in values if isinstance(value, Tensor)}
    try:
        return copying.deepcopy(module, computed)
    except Exception as error:  # the user's network may raise any exception
        raise ZskdError(
            f"the network cannot be copied ({one_line(error)}): use Classifier(network, copy=False), which "
            "changes the network itself"
        ) from error


def in_single_precision(module: nn.Module) -> nn.Module:
    """Return the module itself, converted to float32.

    Raises:
        ZskdError: a weight is too large for it.
    """
    others = [
        (name, value)
        for name, value in (*module.named_parameters(), *module.named_buffers())
        if value.is_floating_point() and value.dtype != torch.float32
    ]
    for name, value in others:
        if bool((torch.isfinite(value) & ~torch.isfinite(value.float())).any()):
            raise ZskdError(f"{name} holds values that float32 cannot hold: give another network")
    return module.float() if others else module


def set_layout(module: nn.Module, probe: Tensor) -> None:
    """Store convolutions channels-last where the network allows it; this halves the time of a step on a CPU.

    `x.view(len(x), -1)` after a convolution needs channels first.
    """
    try:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad(), in_mode(module, training=False):
            module(probe)
    except Exception:  # `plain_head` reports other errors
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def different_images(shape: tuple[int, int, int], box: tuple[float, float]) -> Images:
    """Return images in the box (N, C, H, W), to find out what a network returns and which layer is its head.

    Half of them are white noise, half of them coarse.
    """
    low, high = box
    channels, height, width = shape
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(_PROBES // 2, channels, height, width, generator=rng)
    coarse = torch.rand(_PROBES // 2, channels, min(4, height), min(4, width), generator=rng)
    images = torch.cat([noise, F.interpolate(coarse, size=(height, width))])
    return low + (high - low) * images


def check_names(names: tuple[str, ...], classes: int) -> None:
    """Check the names of the classes, which stand in cards, tables and terminals.

    Raises:
        ZskdError: not one for each class, or one is empty or has control characters.
    """
    for name in names:
        if not name or has_hidden(name):
            raise ZskdError(f"the class name {name!r} is empty or has control characters: change it")
    if len(names) != classes:
        raise ZskdError(f"{len(names)} class names for {classes} classes of the network")
