"""Networks by name, from a user's factory, or as a narrower copy of a teacher."""

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
    """A name of `ARCHITECTURES`."""
    channels: AtLeastOne
    """Of the images that it takes."""
    classes: AtLeastOne
    size: AtLeastOne
    """Height and width of the images, in pixels."""

    @property
    def title(self) -> str:
        """How a person calls it."""
        return self.name


class Factory(Artefact):
    """A network that a user's own code makes."""

    factory: str
    """`package.module:factory` or `file.py:factory`."""

    @property
    def title(self) -> str:
        """How a person calls it."""
        return self.factory


class Layers(Artefact):
    """A plain chain of layers."""

    layers: tuple[tuple[str, dict[str, JsonValue]], ...]
    """Each by its class in `torch.nn` and the arguments that make it."""

    @property
    def title(self) -> str:
        """How a person calls it."""
        return "layers"


Architecture = Named | Factory | Layers
"""How a card names a network; in JSON by the keys of one of the three."""


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
        return Factory(factory=model)
    ARCHITECTURES.check(model, "--model")
    channels, height, width = shape
    if height != width or height < 16:
        raise ZskdError(f"{model} takes square images of at least 16 pixels, not {height}×{width}")
    return Named(name=model, channels=channels, classes=classes, size=height)


def describe_half(teacher: nn.Module) -> Layers:
    """Return the architecture of a narrower copy of a plain sequential convolutional teacher.

    Raises:
        ZskdError: the teacher's forward pass is not one plain chain of layers.
    """
    return Layers(layers=tuple(narrow(read_layers(teacher))))


def half(teacher: nn.Module) -> nn.Module:
    """Build a copy with half the filters of a plain sequential convolutional teacher, untrained.

    Raises:
        ZskdError: the teacher's forward pass is not one plain chain of layers.
    """
    return build(describe_half(teacher), run_code=False)


def build(architecture: Architecture, *, run_code: bool) -> nn.Module:
    """Build the network that an architecture names, with fresh weights.

    Args:
        architecture: as returned by `describe`, or as read from a card.
        run_code: whether a factory may be imported and called. True only when the user has named it
            himself: a card that came with a checkpoint must not choose what code runs.

    Raises:
        ZskdError: unknown or damaged architecture, or a factory that may not run or fails.
    """
    match architecture:
        case Factory(factory=factory):
            if not run_code:
                raise ZskdError(
                    f"this checkpoint's network is made by the code {factory!r}, which a card may not run: "
                    f"repeat it with --model {factory} if you trust it"
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
