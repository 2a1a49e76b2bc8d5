"""Finding the last linear layer of a network, and what enters and leaves it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zskd.core.errors import ZskdError, one_line
from zskd.models.modes import in_mode


def call_with_head(module: nn.Module, head: nn.Linear, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Run the module and return what went into its head and what came out."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(_layer: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        seen.append((arguments[0], output.clone()))  # before an activation in place changes it

    handle = head.register_forward_hook(note)
    try:
        module(inputs)
    finally:
        handle.remove()
    if not seen:
        raise ZskdError("the head named is never used by the network's forward pass: name another one")
    return seen[-1]


def find_head(module: nn.Module, probe: Tensor, wanted: str | None) -> tuple[str, bool]:
    """Return the head's name and whether the module's output is the head's output.

    Every linear layer is watched during one forward pass; the head is the one whose output the module
    returns. A softmax behind it hides it, so that it must then be named.
    """
    linear = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    listing = ", ".join(f"{name} ({layer.out_features} outputs)" for name, layer in linear.items())
    if not linear:
        raise ZskdError("the network has no linear layer: class similarity is read off a last linear layer")
    if wanted is not None and wanted not in linear:
        raise ZskdError(f"the head {wanted!r} is no linear layer of the network; candidates: {listing}")

    outputs: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}

    def note_as(name: str) -> Any:
        def note(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
            outputs[name] = output
            values[name] = output.clone()

        return note

    handles = [layer.register_forward_hook(note_as(name)) for name, layer in linear.items()]
    try:
        with torch.no_grad(), in_mode(module, training=False):
            returned = module(probe)
    except Exception as error:  # whatever the user's forward pass raises
        shape = tuple(probe.shape[1:])
        raise ZskdError(
            f"the network cannot take an input of {shape} (channels, height, width): give its own input "
            f"shape ({one_line(error)})"
        ) from error
    finally:
        for handle in handles:
            handle.remove()

    # an activation in place returns the same tensor with other values; NaN is told elsewhere
    same = [
        name
        for name, output in outputs.items()
        if output is returned and torch.equal(output.nan_to_num(), values[name].nan_to_num())
    ]
    if wanted is not None:
        if wanted not in outputs:
            raise ZskdError(f"the head {wanted!r} is not used by the forward pass; candidates: {listing}")
        return wanted, same == [wanted]
    if len(same) != 1:
        raise ZskdError(
            "the network's output is not the output of one linear layer (is there a softmax behind it, or "
            f"are there several outputs?): name its head; candidates: {listing}"
        )
    return same[0], True
