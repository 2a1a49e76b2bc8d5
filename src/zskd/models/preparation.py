"""What is done before a network is run: it is copied, in float32, in the faster memory layout.

Sizes of its layers and of its images are checked.
"""

from __future__ import annotations

import copy as copying
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from zskd.core.errors import ZskdError, one_line
from zskd.core.types import Images
from zskd.models.modes import in_mode


def runnable(module: nn.Module) -> nn.Module:
    """Return a network, itself changed, as it can be run, cut and switched between its modes.

    torch.compile is taken off, which would compile again for each copy and size, and the program of a
    torch.export gets the modes back, which it refuses to switch although nothing in it depends on them.
    """
    module = getattr(module, "_orig_mod", module)
    for layer in list(module.modules()):
        for name, child in list(layer.named_children()):
            if (inner := getattr(child, "_orig_mod", child)) is not child:
                setattr(layer, name, inner)
        if isinstance(layer, fx.GraphModule):
            vars(layer).pop("train", None)
            vars(layer).pop("eval", None)
    return module


def copied(module: nn.Module) -> nn.Module:
    """Return a copy of a network.

    Raises:
        ZskdError: it is no network, has a lazy layer, or cannot be copied.
    """
    check_sizes(module)
    try:
        return runnable(copying.deepcopy(module, without_graphs(module)))
    except Exception as error:  # the user's network may raise any exception
        raise ZskdError(
            f"the network cannot be copied ({one_line(error)}): use Classifier(network, copy=False), which "
            "changes the network itself"
        ) from error


def without_graphs(module: nn.Module) -> dict[int, Any]:
    """Return the tensors of a network that are part of a graph, copied without it, by identity for a copy.

    torch does not copy those: activations that the forward pass keeps, and weights that a hook computes from
    others (weight norm) and will compute again.
    """
    copies: dict[int, Any] = {}

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            if value.grad_fn is not None:
                copies[id(value)] = value.detach().clone()
        elif isinstance(value, Mapping):
            add(list(value.values()))
        elif isinstance(value, list | tuple):
            for one in value:
                add(one)

    for layer in module.modules():
        add(vars(layer))
    return copies


def check_sizes(module: object) -> None:
    """Check that the sizes of all weights are known; those of lazy layers are not before a first image.

    Raises:
        ZskdError: a layer is lazy, or this is no network.
    """
    if not isinstance(module, nn.Module):
        raise ZskdError(f"a {type(module).__name__} is no network: give a torch.nn.Module")
    for name, layer in module.named_modules():
        if any(is_lazy(value) for value in (*layer.parameters(False), *layer.buffers(False))):
            raise ZskdError(
                f"the layer {name or 'of the network'} does not know its size yet ({type(layer).__name__}): "
                "let one image go through the network where it is built"
            )


def check_image_shape(images: Tensor, shape: tuple[int, int, int]) -> None:
    """Check that images (N, C, H, W) have the shape (C, H, W) that a network takes.

    Raises:
        ZskdError: they have another one.
    """
    if tuple(images.shape[1:]) != shape:
        raise ZskdError(
            f"the images are {tuple(images.shape[1:])}, and the network takes {shape}: give images of that "
            "shape"
        )


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights and buffers of a network by name.

    Raises:
        ZskdError: it has state that is no tensor, which no file of weights could keep.
    """
    state: dict[str, Any] = module.state_dict()
    if wrong := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ZskdError(
            f"the network keeps {wrong[0]} ({type(state[wrong[0]]).__name__}) beside its tensors: give one "
            "that keeps it in a buffer, or whose state_dict leaves it out"
        )
    return state


def in_single_precision(module: nn.Module) -> nn.Module:
    """Return the module itself, converted to float32.

    Raises:
        ZskdError: a weight is too large for it, or has no size or no values yet, or torch makes tensors of
            another precision by default.
    """
    if torch.get_default_dtype() != torch.float32:
        raise ZskdError(
            f"torch makes {torch.get_default_dtype()} by default, and networks run in float32 here: call "
            "torch.set_default_dtype(torch.float32)"
        )
    check_sizes(module)
    module = runnable(module)
    tensors = (*module.named_parameters(), *module.named_buffers())
    if absent := next((name for name, value in tensors if value.is_meta), None):
        raise ZskdError(
            f"the weights of the network are not loaded ({absent} is on the device meta): build it on the CPU"
        )
    others = [
        (name, value) for name, value in tensors if value.is_floating_point() and value.dtype != torch.float32
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


def different_images(shape: tuple[int, int, int], box: tuple[float, float], each: int = 4) -> Images:
    """Return images in the box (N, C, H, W), to find out what a network computes.

    Args:
        shape: channels, height and width.
        box: least and largest value of a pixel.
        each: images of each kind: of white noise, then of coarse noise.
    """
    low, high = box
    channels, height, width = shape
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(each, channels, height, width, generator=rng)
    coarse = torch.rand(each, channels, min(4, height), min(4, width), generator=rng)
    images = torch.cat([noise, F.interpolate(coarse, size=(height, width))])
    return low + (high - low) * images
