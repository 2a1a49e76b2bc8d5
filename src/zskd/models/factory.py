"""Networks by name, from a user's factory, or as a narrower copy of a teacher."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from zskd.core.artefact import Artefact, AtLeastOne, JsonValue
from zskd.core.errors import ZskdError, one_line
from zskd.core.rng import torch_stream
from zskd.models.chain import build_layers, read_layers
from zskd.models.lenet import lenet5, lenet5_bn, lenet5_half, lenet5_small
from zskd.models.narrow import narrow

MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": lenet5,
    "lenet5_half": lenet5_half,
    "lenet5_small": lenet5_small,
    "lenet5_bn": lenet5_bn,
}
"""Built-in architectures; each takes `channels`, `classes` and `size`."""
HALF = "half"
"""The student that is a narrower copy of its teacher."""


class Named(Artefact):
    """A built-in network."""

    name: str
    """A key of `MODELS`."""
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
    if ":" in model:
        return Factory(factory=model)
    if model not in MODELS:
        near = difflib.get_close_matches(model, [*MODELS, HALF], n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ZskdError(
            f"unknown model {model!r}: {hint}choose one of {', '.join(MODELS)}, or name your own as "
            "package.module:factory or file.py:factory"
        )
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
        case Named(name=name) if name in MODELS:
            return MODELS[name](
                channels=architecture.channels, classes=architecture.classes, size=architecture.size
            )
    raise ZskdError(f"the architecture in the card is damaged: there is no built-in network {name!r}")


def _search(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _call_factory(target: str) -> nn.Module:
    """Import `package.module:factory` or `file.py:factory` and call it without arguments."""
    place, _, attribute = target.rpartition(":")
    try:
        if place.endswith(".py"):
            if not Path(place).is_file():
                raise ZskdError(f"{target}: there is no file {place}")
            name = Path(place).stem
            spec = importlib.util.spec_from_file_location(name, place)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module  # dataclasses and the like look their module up
            _search(str(Path(place).resolve().parent))  # for modules beside it
            spec.loader.exec_module(module)
        else:
            _search("")  # a module beside the user, as `python -m` would find it
            module = importlib.import_module(place)
        built = getattr(module, attribute)()
    except ZskdError:
        raise
    except Exception as error:  # the user's own code may fail in any way
        raise ZskdError(f"cannot make a network with {target}: {one_line(error)}") from error
    if not isinstance(built, nn.Module):
        raise ZskdError(f"{target} returned a {type(built).__name__}, not a torch.nn.Module")
    return built


Network = TypeVar("Network", bound=nn.Module)


def fresh_weights(build: Callable[[], Network], seed: int) -> Network:
    """Build a network whose random initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_stream(seed, "weights", 0).initial_seed())
        return build()
