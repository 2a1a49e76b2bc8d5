"""Build networks: by name, with a user's factory, or as a narrower copy of a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from zskd.config.registry import ARCHITECTURES
from zskd.core.artefact import Artefact, AtLeastOne, JsonValue
from zskd.core.code import import_object, is_code
from zskd.core.errors import ZskdError, one_line
from zskd.core.rng import keep_global_rng, torch_stream
from zskd.models.chain import build_layers, read_layers
from zskd.models.narrow import narrow


class Named(Artefact):
    """A built-in network."""

    name: str
    """A key of `ARCHITECTURES`."""
    channels: AtLeastOne
    """Number of input channels."""
    classes: AtLeastOne
    size: AtLeastOne
    """Height and width of the images, in pixels."""

    @property
    def title(self) -> str:
        """Name for messages."""
        return self.name


class Factory(Artefact):
    """A network that the user's own code builds."""

    factory: str
    """`package.module:factory` or `file.py:factory`."""

    @property
    def title(self) -> str:
        """Name for messages."""
        return self.factory


class Layers(Artefact):
    """A plain chain of layers."""

    layers: tuple[tuple[str, dict[str, JsonValue]], ...]
    """Class name in `torch.nn` and keyword arguments of each layer."""

    @property
    def title(self) -> str:
        """Name for messages."""
        return "layers"


Architecture = Named | Factory | Layers
"""Architecture in a card; the JSON keys distinguish the three kinds."""


def describe(model: str, *, shape: tuple[int, int, int], classes: int) -> Architecture:
    """Return the architecture of a built-in name or of a `package.module:factory`.

    Args:
        model: "lenet5", …, "my_package.my_module:build" or "path/to/my_file.py:build".
        shape: channels, height, width of the input; built-in networks need square images.
        classes: number of classes K.

    Raises:
        ZskdError: unknown name, or an input shape that the built-in network does not accept.
    """
    if is_code(model):
        return Factory(factory=model)
    ARCHITECTURES.check(model, "--model")
    channels, height, width = shape
    if height != width or height < 16:
        raise ZskdError(f"{model} takes square images of at least 16 pixels, not {height}×{width}")
    return Named(name=model, channels=channels, classes=classes, size=height)


def describe_half(teacher: nn.Module) -> Layers:
    """Return the architecture of a narrower copy of a plain sequential teacher (see `narrow`).

    Raises:
        ZskdError: the teacher's forward pass is not one plain chain of layers.
    """
    return Layers(layers=tuple(narrow(read_layers(teacher))))


def half(teacher: nn.Module) -> nn.Module:
    """Build a narrower copy of a plain sequential teacher, untrained (see `narrow`).

    Raises:
        ZskdError: the teacher's forward pass is not one plain chain of layers.
    """
    return build(describe_half(teacher), run_code=False)


def build(architecture: Architecture, *, run_code: bool) -> nn.Module:
    """Build the network of an architecture, with random weights.

    Args:
        architecture: from `describe` or from a card.
        run_code: whether a factory may be imported and called. True only when the user has given its name:
            the card of a checkpoint must not decide which code runs.

    Raises:
        ZskdError: unknown or damaged architecture, or a factory that fails or may not run.
    """
    match architecture:
        case Factory(factory=factory):
            if not run_code:
                raise ZskdError(
                    f"the code {factory!r} builds this checkpoint's network, but a card may not run code: if "
                    f"you trust it, add --model {factory}"
                )
            return _call_factory(factory)
        case Layers(layers=layers):
            return build_layers(layers)
        case Named(name=name) if name in ARCHITECTURES:
            network: nn.Module = ARCHITECTURES.load(name)(
                channels=architecture.channels, classes=architecture.classes, size=architecture.size
            )
            return network
    raise ZskdError(f"the architecture in the card is damaged: there is no built-in network {name!r}")


def _call_factory(target: str) -> nn.Module:
    """Import `package.module:factory` or `file.py:factory` and call it without arguments."""
    factory = import_object(target)
    try:
        built = factory()
    except Exception as error:  # the user's own code may fail in any way
        raise ZskdError(f"cannot build a network with {target}: {one_line(error)}") from error
    if not isinstance(built, nn.Module):
        raise ZskdError(f"{target} returned a {type(built).__name__}, not a torch.nn.Module")
    return built


Network = TypeVar("Network", bound=nn.Module)


def fresh_weights(build: Callable[[], Network], seed: int) -> Network:
    """Build a network whose random initial weights depend only on the seed.

    Args:
        build: builds the network.
        seed: at least 0.
    """
    with keep_global_rng():
        torch.manual_seed(torch_stream(seed, "weights", 0).initial_seed())
        return build()
