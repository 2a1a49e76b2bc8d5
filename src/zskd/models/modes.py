"""Run networks in another mode, and restore their modes afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from zskd.core.errors import ZskdError


@contextmanager
def by_plain_operations() -> Iterator[None]:
    """Run transformers by operations that can be counted and exported, not by one of torch for a layer."""
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Switch a network to training or evaluation mode; restore the mode of every layer afterwards."""
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

    Afterwards, also after an exception, the mode of every layer and `requires_grad` of every parameter are
    restored. Every function of this package that receives a teacher or a finished student runs it inside such
    a block. Blocks may be nested and may share networks.

    Do not `yield` inside a block: the caller would get frozen networks until the next call. A network that is
    pickled inside a block is frozen in the other process.

    Args:
        networks: any. Gradients with respect to inputs are still computed.
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
        for value, before in parameters.items():
            value.requires_grad_(before)


def check_learns(network: nn.Module, name: str) -> None:
    """Refuse a network to be trained of which nothing can learn.

    Args:
        network: whose `requires_grad` are looked at.
        name: "student", for the message.

    Raises:
        ZskdError: all its weights are frozen.
    """
    if not any(value.requires_grad for value in network.parameters()):
        raise ZskdError(
            f"all weights of the {name} are frozen: call {name}.requires_grad_(), or leave out what freezes "
            "them"
        )


def let_learn(network: nn.Module) -> nn.Module:
    """Let the layers of a copy of a teacher learn, in place; which of the teacher's were frozen says nothing.

    Frozen parameters outside of layers, such as fixed positions, stay so, but where everything is frozen.

    Args:
        network: whose `requires_grad` are changed.
    """
    values = list(network.parameters())
    if any(value.requires_grad for value in values):
        layers = (one for one in network.modules() if {"reset_parameters", "_reset_parameters"} & {*dir(one)})
        values = [value for layer in layers for value in layer.parameters()]
    for value in values:
        value.requires_grad_(value.is_floating_point() or value.is_complex())
    return network
