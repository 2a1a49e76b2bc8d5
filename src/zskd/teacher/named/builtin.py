"""Find a built-in network by its name: `resnet20@net.th`, `wrn-16-2(norm=group)@net.pt`."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from zskd.core.code import format_call
from zskd.core.errors import ZskdError
from zskd.models.factory import build, describe
from zskd.teacher.named.facts import Facts, Found, Given, assumed
from zskd.teacher.named.source import Source
from zskd.teacher.weights.fits import Table
from zskd.teacher.weights.reading import read_weights
from zskd.teacher.weights.stored import StoredTensor

Shapes = dict[str, tuple[int, ...]]


def find(source: Source, given: Given) -> Found:
    """Build a built-in network for the weights of a source, with random weights.

    Channels and classes are those that the weights in the file are for, unless they are given. Without a
    shape, images of 32×32 are assumed.

    Raises:
        ZskdError: no weights are named, wrong arguments, or a shape that the network does not accept.
    """
    if source.weights is None:
        raise ZskdError(f"{source.text} has no trained weights: name them, as in {source.text}@weights.pth")
    file = read_weights(source.weights)
    name = format_call(source.name, source.arguments)
    stored = Table("", file.largest(given.weights)).tensors  # also where weights are held in two parts

    def told(*, of: str, else_: int) -> int:
        one, other = (_sketch(name, **{of: number}) for number in (2, 3))
        return _size_in(stored, one, other) or else_

    shape = given.known_shape or (told(of="channels", else_=1), 32, 32)
    names = len(given.class_names or ())
    classes = names or told(of="classes", else_=10)
    if names == 2 and told(of="classes", else_=2) == 1:
        classes = 1  # one logit stands for two classes
    architecture = describe(name, shape=shape, classes=classes)
    module = build(architecture, run_code=False)
    return Found(module, architecture, Facts(shape=assumed(shape)), file=file)


def _sketch(name: str, *, channels: int = 3, classes: int = 10) -> Shapes:
    """Return the shapes of a network's weights by name, without memory for them."""
    with torch.device("meta"):
        network = build(describe(name, shape=(channels, 32, 32), classes=classes), run_code=False)
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def _size_in(stored: Mapping[str, StoredTensor], one: Shapes, other: Shapes) -> int | None:
    """Return the number, 2 in one network and 3 in another, that a file's weights are for; None: not told.

    The names of the file have parts before those of the network; the shortest that ends alike is that of the
    layer.
    """
    for name, shape in one.items():
        for dim, (size, another) in enumerate(zip(shape, other[name], strict=True)):
            ending = (key for key in stored if key == name or key.endswith(f".{name}"))
            key = min(ending, key=len, default=None)
            if size != another and key is not None and len(stored[key].shape) == len(shape):
                return stored[key].shape[dim] // (another - size)  # a flattened image has many of each
    return None
