"""The head of a network, its last linear layer: find it, and record its input and output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zskd.core.errors import ZskdError, one_line
from zskd.models.modes import in_mode


def call_with_head(module: nn.Module, head: nn.Linear, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Run the module and return input (N, D) and output (N, K) of its head.

    Raises:
        ZskdError: the forward pass does not use the head.
    """
    calls: list[tuple[Tensor, Tensor]] = []

    def record(_layer: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        calls.append((arguments[0], output.clone()))  # before an in-place activation changes it

    handle = head.register_forward_hook(record)
    try:
        module(inputs)
    finally:
        handle.remove()
    if not calls:
        raise ZskdError("the named head is not used by the forward pass of the network: name another one")
    return calls[-1]


def find_head(module: nn.Module, probe: Tensor, given: str | None) -> tuple[str, bool]:
    """Return the head's name and whether the module's output is the head's output.

    The outputs of all linear layers are recorded in one forward pass; the head is the layer whose output the
    module returns. If there is a softmax after the head, the head must be named.

    Args:
        module: any network.
        probe: an input (N, C, H, W), normalised.
        given: dotted name of the head; None: find it.

    Raises:
        ZskdError: there is no such head, it is ambiguous (the candidates are listed), or the forward pass
            fails.
    """
    linear = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    listing = ", ".join(f"{name} ({layer.out_features} outputs)" for name, layer in linear.items())
    if not linear:
        raise ZskdError(
            "the network has no linear layer, but class similarity needs one: choose another network"
        )
    if given is not None and given not in linear:
        raise ZskdError(f"the head {given!r} is no linear layer of the network; candidates: {listing}")

    outputs: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}

    def record_as(name: str) -> Any:
        def record(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
            outputs[name] = output
            values[name] = output.clone()

        return record

    handles = [layer.register_forward_hook(record_as(name)) for name, layer in linear.items()]
    try:
        with torch.no_grad(), in_mode(module, training=False):
            returned = module(probe)
    except Exception as error:  # the user's forward pass may raise any exception
        shape = tuple(probe.shape[1:])
        raise ZskdError(
            f"the network cannot take an input of {shape} (channels, height, width): give its input shape "
            f"with --shape ({one_line(error)})"
        ) from error
    finally:
        for handle in handles:
            handle.remove()

    # an in-place activation returns the same tensor with other values; NaN is reported elsewhere
    same = [
        name
        for name, output in outputs.items()
        if output is returned and torch.equal(output.nan_to_num(), values[name].nan_to_num())
    ]
    if given is not None:
        if given not in outputs:
            raise ZskdError(f"the head {given!r} is not used by the forward pass; candidates: {listing}")
        return given, same == [given]
    if len(same) != 1:
        raise ZskdError(
            "the network's output is not the output of one linear layer (is there a softmax after it, or "
            f"are there several outputs?): name its head; candidates: {listing}"
        )
    return same[0], True
