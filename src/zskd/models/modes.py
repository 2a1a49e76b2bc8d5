"""Running a network in another mode than the one it is in, and putting everything back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Switch a network to training or evaluation, and every layer back to its own mode afterwards."""
    before = {layer: layer.training for layer in module.modules()}
    try:
        module.train(training)
        yield
    finally:
        for layer, mode in before.items():
            layer.training = mode


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Run networks in evaluation mode and without gradients of their parameters.

    Afterwards, also after an exception, every layer has its own mode again and every parameter its own
    `requires_grad`. Every function of this package that is lent a teacher or a finished student asks it
    inside such a block. Blocks may be nested and may share networks.

    A generator must not yield inside one: its caller would meet the networks frozen, for as long as it likes.
    What is pickled inside one arrives frozen in the other process, and stays so there.

    Args:
        networks: any. Inputs still get their gradients through them.
    """
    layers = {layer: layer.training for network in networks for layer in network.modules()}
    parameters = {value: value.requires_grad for network in networks for value in network.parameters()}
    try:
        for network in networks:
            network.eval()
        for value in parameters:
            value.requires_grad_(False)
        yield
    finally:
        for layer, mode in layers.items():
            layer.training = mode
        for value, wanted in parameters.items():
            value.requires_grad_(wanted)
