"""Build networks: by name, with a user's factory, or as a narrower copy of a teacher."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable
from pathlib import Path
from reprlib import repr as short
from typing import TypeVar

import torch
from pydantic import ValidationError, validate_call
from torch import nn

from zskd.config.checks import suggestion
from zskd.config.registry import ARCHITECTURES
from zskd.core.artefact import Artefact, AtLeastOne, JsonValue, Sha256
from zskd.core.code import code_sha256, format_call, is_code, parse_call, without_folders
from zskd.core.errors import ZskdError
from zskd.core.extras import import_network
from zskd.core.rng import keep_global_rng, torch_stream
from zskd.core.trust import is_trusted, remember
from zskd.models.chain import build_layers, read_layers
from zskd.models.classifier import Classifier
from zskd.models.libraries.arguments import construct
from zskd.models.libraries.describe import describe_library
from zskd.models.libraries.onnx import OnnxNetwork
from zskd.models.libraries.timm import TimmNetwork
from zskd.models.libraries.torchvision import TorchvisionNetwork
from zskd.models.libraries.transformers import TransformersNetwork
from zskd.models.modes import let_learn
from zskd.models.narrow.chain import narrow
from zskd.models.narrow.changes import Changes, apply_changes
from zskd.models.preparation import copied

MOST_PARAMETERS = 10**9
"""Largest number of parameters of a built-in network, and of any network that a card names a copy of."""


class Named(Artefact):
    """A built-in network."""

    name: str
    """A name of `ARCHITECTURES`, with its arguments if it has any: `resnet20(norm=group)`."""
    channels: AtLeastOne
    """Number of input channels."""
    classes: AtLeastOne
    size: AtLeastOne | tuple[AtLeastOne, AtLeastOne]
    """Height and width of the images, in pixels; one number for square images."""

    @property
    def title(self) -> str:
        """Name for messages."""
        return self.name


class Factory(Artefact):
    """A network that the user's own code builds."""

    factory: str
    """`package.module:factory` or `file.py:factory`, with its arguments if it has any."""
    code_sha256: Sha256 | None = None
    """SHA-256 of the source file that defines it."""

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


class Narrowed(Artefact):
    """A copy of another network with fewer channels or blocks. It is built without torch-pruning."""

    student: str
    """The name that it was made by: "narrow:0.5"."""
    of: Architecture
    """The network that it is a copy of."""
    changes: Changes
    """How it differs."""

    @property
    def title(self) -> str:
        """Name for messages."""
        return f"{self.student} of {self.of.title}"


LibraryNetwork = TimmNetwork | TorchvisionNetwork | TransformersNetwork
"""A network that a library builds from its name or configuration."""
Architecture = Named | Factory | Layers | LibraryNetwork | OnnxNetwork | Narrowed
"""Architecture in a card; the JSON keys distinguish the kinds."""
Narrowed.model_rebuild()


def describe(model: str, *, shape: tuple[int, int, int], classes: int) -> Architecture:
    """Return the architecture of a built-in name, of a `package.module:factory`, or of a library.

    Args:
        model: "lenet5", "resnet20(norm=group)", "package.module:build", "path/to/file.py:build(depth=20)",
            "timm:resnet18", "torchvision:resnet18".
        shape: channels, height, width of the input.
        classes: number of classes K.

    Raises:
        ZskdError: unknown name, wrong arguments, or an input shape that the built-in network does not accept.
    """
    if (library := describe_library(model, shape=shape, classes=classes)) is not None:
        return library
    ARCHITECTURES.check(model, "--model")
    name = format_call(*parse_call(model))
    if is_code(name):
        return Factory(factory=name)
    channels, height, width = shape
    size = height if height == width else (height, width)
    named = Named(name=name, channels=channels, classes=classes, size=size)
    check_named(named)
    return named


def describe_half(teacher: nn.Module) -> Layers:
    """Return the architecture of a narrower copy of a plain sequential teacher (see `narrow`).

    Raises:
        ZskdError: the teacher's forward pass is not one plain chain of layers.
    """
    return Layers(layers=tuple(narrow(read_layers(teacher))))


def half(teacher: nn.Module) -> nn.Module:
    """Build a narrower copy of a plain sequential network, or of that of a `Classifier`, untrained.

    Raises:
        ZskdError: the teacher's forward pass is not one plain chain of layers.
    """
    network = teacher.module if isinstance(teacher, Classifier) else copied(teacher)
    return build(describe_half(network), run_code=False)


def innermost(architecture: Architecture) -> Architecture:
    """Return the architecture that another is a copy of, if need be of a copy; itself where it is none."""
    return innermost(architecture.of) if isinstance(architecture, Narrowed) else architecture


def own_code(architecture: Architecture | None) -> dict[str, str | None]:
    """Return the hash of the user's own code that builds a network, by its name without folder.

    The hash is that of today's file. Other networks have no such code.

    Raises:
        ZskdError: the code cannot be found.
    """
    of = innermost(architecture) if architecture is not None else None
    if not isinstance(of, Factory):
        return {}
    name, _ = parse_call(of.factory)
    return {without_folders(name): code_sha256(name)}


def build(
    architecture: Architecture, *, run_code: bool, folder: Path | None = None, option: str = "--model"
) -> nn.Module:
    """Build the network of an architecture, with random weights.

    Args:
        architecture: from `describe` or from a card.
        run_code: whether a factory may be imported and called. True only when the user has given its name:
            the card of a checkpoint must not decide which code runs. A file that the user has named before
            may run too (`zskd.core.trust`).
        folder: of the checkpoint, for a network that is read from a file in it.
        option: by which the user names a factory that may run, for messages.

    Raises:
        ZskdError: unknown or damaged architecture, a factory that fails or may not run, or a library that is
            not installed or refuses the arguments.
    """
    match architecture:
        case Factory(factory=factory):
            if not (run_code or is_trusted(factory)):
                raise ZskdError(
                    f"the code {factory!r} builds this network, but a card may not run code that "
                    f"is new or was changed: if you trust it, add {option} {shlex.quote(factory)}"
                )
            remember(factory)
            name, arguments = parse_call(factory)
            return construct(factory, import_network(name), arguments)
        case Layers(layers=layers):
            return build_layers(layers)
        case Narrowed(of=of, changes=changes):
            return let_learn(
                apply_changes(build(of, run_code=run_code, folder=folder, option=option), changes)
            )
        case TimmNetwork() | TorchvisionNetwork() | TransformersNetwork():
            return architecture.build()
        case OnnxNetwork():
            if folder is None:
                raise ZskdError("a network from an ONNX file cannot be built anew: choose another student")
            return architecture.build(folder)
        case Named():
            try:
                check_named(architecture)
            except ZskdError as error:  # `describe` makes none that is wrong
                raise ZskdError(f"the architecture in the card is damaged: {error}") from error
            return _build_named(architecture)


def check_named(named: Named) -> None:
    """Check name, arguments and size of a built-in network, without memory for its weights.

    Raises:
        ZskdError: one of them is wrong, or the network is too large.
    """
    try:
        with torch.device("meta"):
            count = sum(values.numel() for values in _build_named(named).parameters())
    except (OverflowError, RuntimeError, TypeError):  # the size of a tensor has too many digits
        count = None
    if count is None or count > MOST_PARAMETERS:
        number = "too many" if count is None else f"{count:,}"
        name = parse_call(named.name)[0]
        raise ZskdError(f"{name} would have {number} parameters: choose smaller arguments or images")


def _build_named(named: Named) -> nn.Module:
    """Build a built-in network; its arguments are checked against the types of its function."""
    if is_code(named.name):  # a card may name anything, and must not run code
        raise ZskdError(f"there is no built-in network {named.name!r}")
    function, arguments = ARCHITECTURES.load_with_arguments(named.name)
    name, given = parse_call(named.name)
    own = [key for key, one in inspect.signature(function).parameters.items() if one.kind == one.KEYWORD_ONLY]
    if unknown := sorted(given.keys() - own):
        free = [key for key in own if key not in arguments]
        raise ZskdError(f"{name} has no argument {unknown[0]!r}{suggestion(unknown[0], free)}")
    try:
        network: nn.Module = validate_call(config={"strict": True})(function)(
            channels=named.channels, classes=named.classes, size=named.size, **arguments
        )
    except ValidationError as error:
        first = error.errors()[0]
        why = first["msg"].replace("Input should", "it should")
        raise ZskdError(f"{name}: {first['loc'][0]} is {short(first['input'])}: {why}") from None
    return network


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
