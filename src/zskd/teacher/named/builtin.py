"""Find a built-in network by its name: `resnet20@net.th`, `wrn-16-2(norm=group)@net.pt`."""

from __future__ import annotations

from zskd.core.code import format_call
from zskd.core.errors import ZskdError
from zskd.models.factory import build, describe
from zskd.teacher.named.facts import Facts, Found, Given, assumed
from zskd.teacher.named.source import Source
from zskd.teacher.weights.reading import read_weights


def find(source: Source, given: Given) -> Found:
    """Build a built-in network for the weights of a source, with random weights.

    Its first four-dimensional tensor tells the channels, and the rows of its last matrix are the classes,
    unless they are given. Without a shape, images of 32×32 are assumed.

    Raises:
        ZskdError: no weights are named, wrong arguments, or a shape that the network does not accept.
    """
    if source.weights is None:
        raise ZskdError(f"{source.text} has no trained weights: name them, as in {source.text}@weights.pth")
    file = read_weights(source.weights)
    shapes = [one.shape for one in file.largest(given.weights).values()]
    matrices = [shape[0] for shape in shapes if len(shape) == 2]
    channels = next((shape[1] for shape in shapes if len(shape) == 4), 1)
    classes = len(given.class_names) if given.class_names else matrices[-1] if matrices else 10
    shape = given.shape or (channels, 32, 32)
    name = format_call(source.name, source.arguments)
    architecture = describe(name, shape=shape, classes=classes)
    module = build(architecture, run_code=False)
    return Found(module, architecture, Facts(shape=assumed(shape)), file=file)
