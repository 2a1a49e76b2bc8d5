"""Run a network so that torch-pruning sees every layer, and read the sums in its dependency graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zskd.core.rng import keep_global_rng
from zskd.models.narrow.groups import LAYERS, NORMS

Read = Callable[[nn.Module, Tensor], Tensor]
"""Returns the logits (N, K) of a network for normalised images."""


def dependency_graph(
    network: nn.Module, inputs: tuple[Tensor, ...], training: bool, read: Read | None = None
) -> Any:
    """Return torch-pruning's dependency graph.

    Args:
        network: changed: it is put into training or evaluation mode.
        inputs: of one image.
        training: which mode.
        read: reads the one output that is followed; None: all outputs are.
    """
    import torch_pruning

    def run(module: nn.Module, given: tuple[Tensor, ...]) -> Any:
        module.train(training)
        with CallLayers(module):
            if read is not None:
                return _tensors(read(module, *given))
            return _tensors(module(*(one.repeat(2, 1, 1, 1) if training else one for one in given)))

    with torch.enable_grad(), warnings.catch_warnings(), keep_global_rng():
        warnings.simplefilter("ignore")
        return torch_pruning.DependencyGraph().build_dependency(
            network, example_inputs=inputs, forward_fn=run, verbose=False
        )


class CallLayers(TorchFunctionMode):
    """Call a linear layer or convolution where a network uses only its weight, so that hooks see the call.

    Args:
        network: whose layers are meant.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._layers = {
            id(layer._parameters["weight"]): layer
            for layer in network.modules()
            if isinstance(layer, nn.Linear) and layer._parameters.get("weight") is not None
        }
        self._inside: set[int] = set()
        skipped = [layer for layer in network.modules() if isinstance(layer, nn.MultiheadAttention)]
        for layer in skipped:  # one layer for itself
            self._layers.pop(id(layer.out_proj.weight), None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the layer instead of the function of its weight."""
        if func is F.linear and len(args) > 1 and id(args[1]) in self._layers:
            layer = self._layers[id(args[1])]
            if id(layer) not in self._inside and type(layer).forward is nn.Linear.forward:
                self._inside.add(id(layer))
                try:
                    with self:
                        return layer(args[0])
                finally:
                    self._inside.discard(id(layer))
        return func(*args, **(kwargs or {}))


class Entered(nn.Module):
    """A module of a network whose input channels are marked: they are those of other layers."""

    def __init__(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.module = module
        self.marks = nn.ParameterList(
            torch.ones(1, one.shape[1], 1, 1) if one.ndim == 4 else torch.ones(one.shape[-1]) for one in given
        )

    def forward(self, *given: Tensor) -> Any:
        """Return what the module returns."""
        return self.module(*(one * mark for one, mark in zip(given, self.marks, strict=True)))


def returns_several(network: nn.Module, image: Tensor) -> bool:
    """Return whether a network returns more tensors than its class scores, such as its features.

    Args:
        network: in evaluation mode.
        image: normalised (1, C, H, W).
    """
    with torch.enable_grad(), keep_global_rng(), suppress(Exception):  # what it raises is told later
        return len(_tensors(network(image.clone().requires_grad_()))) > 1
    return False


def _tensors(answer: Any) -> list[Tensor]:
    """Return all tensors with a gradient in an answer."""
    if isinstance(answer, Tensor):
        # one more operation: torch-pruning marks the last one as the output only where it is no layer
        return [answer * 1.0] if answer.grad_fn is not None else []
    if isinstance(answer, dict):
        answer = list(answer.values())
    elif hasattr(answer, "__dict__") and not isinstance(answer, list | tuple):
        answer = list(vars(answer).values())
    if isinstance(answer, list | tuple):
        return [one for part in answer for one in _tensors(part)]
    return []


def find_sums(graph: Any) -> set[Any]:
    """Return the nodes that add two tensors which both depend on the image."""
    depends: dict[Any, bool] = {}

    def of(node: Any) -> bool:
        stack = [node]
        while stack:
            top = stack[-1]
            if top in depends:
                stack.pop()
                continue
            if isinstance(top.module, (*LAYERS, *NORMS)):
                depends[top] = True
                continue
            waiting = [one for one in top.inputs if one not in depends]
            depends.setdefault(top, False) if not top.inputs else None
            if waiting and top not in depends:
                stack.extend(waiting)
                continue
            depends[top] = any(depends[one] for one in top.inputs)
        return depends[node]

    return {
        node
        for node in graph.module2node.values()
        if str(getattr(node.module, "_grad_fn", "")).startswith(("AddBackward", "SubBackward"))
        and sum(of(one) for one in node.inputs) > 1
    }
