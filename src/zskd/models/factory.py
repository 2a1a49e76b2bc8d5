"""Networks by name, from a user's factory, or as a narrower copy of a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from zskd.config.registry import ARCHITECTURES
from zskd.core.code import import_object, is_code
from zskd.core.errors import ZskdError, one_line
from zskd.core.rng import keep_global_rng, torch_stream
from zskd.models.chain import build_layers, read_layers
from zskd.models.narrow import narrow

Architecture = dict[str, Any]
"""How a card names a network: `{"name", "channels", "classes", "size"}`, `{"factory"}` or `{"layers"}`."""


def describe(model: str, *, shape: tuple[int, int, int], classes: int) -> Architecture:
    """Return the architecture of a built-in name or of a `package.module:factory`.

    Args:
        model: "lenet5", …, "my_package.my_module:build" or "path/to/my_file.py:build".
        shape: channels, height, width of the input; the built-in ones take squares.
        classes: number of classes K.

    Raises:
        ZskdError: unknown name, or an input that the built-in network does not take.
    """
    if is_code(model):
        return {"factory": model}
    ARCHITECTURES.check(model, "--model")
    channels, height, width = shape
    if height != width or height < 16:
        raise ZskdError(f"{model} takes square images of at least 16 pixels, not {height}×{width}")
    return {"name": model, "channels": channels, "classes": classes, "size": height}


def describe_half(teacher: nn.Module) -> Architecture:
    """Return the architecture of a narrower copy of a plain sequential convolutional teacher."""
    return {"layers": [[name, arguments] for name, arguments in narrow(read_layers(teacher))]}


def half(teacher: nn.Module) -> nn.Module:
    """Build a copy with half the filters of a plain sequential convolutional teacher, untrained.

    Raises:
        ZskdError: the teacher's forward pass is not one plain chain of layers.
    """
    return build(describe_half(teacher), run_code=False)


def build(architecture: Mapping[str, Any], *, run_code: bool) -> nn.Module:
    """Build the network that an architecture names, with fresh weights.

    Args:
        architecture: as returned by `describe`, or as read from a card.
        run_code: whether a factory may be imported and called. True only when the user has named it
            himself: a card that came with a checkpoint must not choose what code runs.

    Raises:
        ZskdError: unknown or damaged architecture, or a factory that may not run or fails.
    """
    if "factory" in architecture:
        factory = str(architecture["factory"])
        if not run_code:
            raise ZskdError(
                f"this checkpoint's network is made by the code {factory!r}, which a card may not run: "
                f"repeat it with --model {factory} if you trust it"
            )
        return _call_factory(factory)
    try:
        if "layers" in architecture:
            return build_layers([(str(name), dict(arguments)) for name, arguments in architecture["layers"]])
        arguments = {key: int(architecture[key]) for key in ("channels", "classes", "size")}
        network: nn.Module = import_object(ARCHITECTURES[architecture["name"]].target)(**arguments)
        return network
    except (KeyError, TypeError, ValueError) as error:
        raise ZskdError(f"the architecture in the card is damaged: {architecture}") from error


def _call_factory(target: str) -> nn.Module:
    """Import `package.module:factory` or `file.py:factory` and call it without arguments."""
    factory = import_object(target)
    try:
        built = factory()
    except Exception as error:  # the user's own code may fail in any way
        raise ZskdError(f"cannot make a network with {target}: {one_line(error)}") from error
    if not isinstance(built, nn.Module):
        raise ZskdError(f"{target} returned a {type(built).__name__}, not a torch.nn.Module")
    return built


Network = TypeVar("Network", bound=nn.Module)


def fresh_weights(build: Callable[[], Network], seed: int) -> Network:
    """Build a network whose random initial weights depend on the seed alone."""
    with keep_global_rng():
        torch.manual_seed(torch_stream(seed, "weights", 0).initial_seed())
        return build()
