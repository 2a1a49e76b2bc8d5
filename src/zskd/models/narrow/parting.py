"""Follow a network in parts, where it does something with its channels that cannot be followed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_VIEWS = (Tensor.view, Tensor.reshape, torch.reshape)


class Parted(nn.Module):
    """A network that is a graph of its own behind each shuffle of channels.

    What goes into a shuffle is one more output, and what comes out of it is an input whose channels are
    marked: neither can be cut.

    Args:
        network: takes images.
        image: one normalised image (1, C, H, W).
    """

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.module = network
        self.marks = nn.ParameterList()
        with torch.no_grad(), (parts := _Parts(None)):
            network.eval()(image)
        for channels in parts.channels:
            self.marks.append(torch.ones(1, channels, 1, 1))

    def forward(self, image: Tensor) -> list[Any]:
        """Return what the network returns, and what goes into its shuffles."""
        with _Parts(self.marks) as parts:
            answer = self.module(image)
        return [answer, *parts.ends]


class _Parts(TorchFunctionMode):
    """Part a graph where a tensor of five dimensions becomes images again."""

    def __init__(self, marks: nn.ParameterList | None) -> None:
        super().__init__()
        self.marks = marks
        self.channels: list[int] = []
        self.ends: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the marked copy of what comes out of a shuffle."""
        result = func(*args, **(kwargs or {}))
        if func not in _VIEWS or not (args[0].ndim == 5 and result.ndim == 4):
            return result
        self.channels.append(result.shape[1])
        if self.marks is None:
            return result
        self.ends.append(result)
        return result.detach() * self.marks[len(self.channels) - 1]
