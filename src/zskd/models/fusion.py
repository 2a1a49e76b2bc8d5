"""Fusion: a faster, equivalent network, with batch-norm and pooling fused into convolutions.

The rewritten network shares all parameters with the original and has none of its own. Its outputs and
gradients are the same up to rounding, in training and evaluation mode, on any device. Where several values of
a pooling window are equal, rounding decides which one receives the gradient.

- A batch-norm in evaluation mode is an affine map of each filter: it is folded into the filter.
- A convolution of few channels leaves most of the vector unit of a CPU unused, and max-pooling after it reads
  every value again. Both together are one convolution of 2×2 blocks (space-to-depth): it gives the four
  values of each pooling window as channels, and the largest is kept.
- A ReLU between a convolution and its pooling is moved after the pooling.

Layers with hooks are run unfused.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from zskd.core.errors import ZskdError
from zskd.models.chain import layer_of
from zskd.models.fused_conv import FusedConv, few_channels
from zskd.models.modes import in_mode
from zskd.models.tracing import trace

_Layer = TypeVar("_Layer", bound=nn.Module)
_TOLERANCE = 1e-4
"""Largest difference of two outputs, relative to the largest output, that counts as rounding."""


class HowRun(TypedDict):
    """Choices that change only speed and rounding of a network."""

    layout: Literal["channels_first", "channels_last"]
    """Memory layout of the convolutions."""
    merged: tuple[str, ...]
    """Convolutions that other layers were fused into."""


def is_exported() -> bool:
    """Return whether torch is recording a forward pass for an export or a trace.

    A fused network chooses by the number of images what it computes, and what is recorded would keep that.
    """
    return torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def fuse_layers(module: nn.Module, probe: Tensor) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a faster, equivalent network, and the names of the fused convolutions.

    Args:
        module: any network; not changed.
        probe: an input (N, C, H, W), for comparing the outputs of both.

    Returns:
        The module itself and no names where nothing can be fused: the forward pass cannot be traced, depends
        on the training mode, or has no such convolution.
    """
    graph = _trace(module)
    if graph is None:
        return module, ()
    fused = fx.GraphModule(module, graph)
    names = [str(node.target) for node in list(graph.nodes) if _fuse(fused, node)]
    if not names:
        return module, ()
    graph.lint()
    fused.recompile()
    return (fused, tuple(names)) if _same_outputs(module, fused, probe) else (module, ())


def _trace(module: nn.Module) -> fx.Graph | None:
    """Return the graph of the forward pass; None where it cannot be traced or depends on `training`.

    Also None where the forward pass reads tensors outside the layers: the graph would keep the old ones
    after they are replaced.
    """
    graphs = []
    for training in (True, False):
        with in_mode(module, training=training):
            try:
                graphs.append(trace(module))
            except Exception:  # the user's forward pass may raise any exception
                return None
    own = any(node.op == "get_attr" for node in graphs[0].nodes)
    return graphs[0] if str(graphs[0]) == str(graphs[1]) and not own else None


def _fuse(fused: fx.GraphModule, node: fx.Node) -> bool:
    """Fuse the layers after a convolution into it; return whether there were any."""
    conv = _module(fused, node, nn.Conv2d)
    if conv is None:
        return False
    last, norm, relu, pool = node, None, None, None
    if (user := _only_user(last)) is not None:
        norm = _module(fused, user, nn.BatchNorm2d)
        last = user if norm is not None else last
    following = _only_user(last)
    if following is not None and _is(fused, following, "ReLU"):
        relu, following = following, _only_user(following)
    if following is not None and _is(fused, following, "MaxPool2d"):
        pool = following
    # fusion is faster only with a batch-norm or blocks
    if norm is None and (pool is None or not few_channels(conv)):
        return False
    name = f"merged_{node.name}"
    removed = (_module(fused, one, kind) for one, kind in ((pool, nn.MaxPool2d), (relu, nn.ReLU)) if one)
    watched = tuple(layer for layer in removed if layer is not None)
    fused.add_module(name, FusedConv(conv, norm, pool is not None, watched))
    with fused.graph.inserting_before(node):
        merged = fused.graph.call_module(name, node.args)
    last.replace_all_uses_with(merged)
    if pool is not None:
        pool.replace_all_uses_with(merged if relu is None else relu)
        fused.graph.erase_node(pool)
    for old in dict.fromkeys((last, node)):
        fused.graph.erase_node(old)
    return True


def _module(fused: fx.GraphModule, node: fx.Node, kind: type[_Layer]) -> _Layer | None:
    """Return the module that a node calls with one input, if it is exactly of that class."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    called = fused.get_submodule(str(node.target))
    return called if type(called) is kind else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is(fused: fx.GraphModule, node: fx.Node, name: str) -> bool:
    """Return whether a node is a ReLU, or 2×2 max-pooling without overlap."""
    try:
        layer = layer_of(fused, node)
    except ZskdError:
        return False
    if layer is None or layer[0] != name:
        return False
    if name == "ReLU":
        return True
    expected = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1, "ceil_mode": False}
    given = {"stride": 2} | {key: _side(value) for key, value in layer[1].items()}
    return expected | given == expected


def _side(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(set(value)) == 1 else value


@torch.no_grad()
def _same_outputs(module: nn.Module, fused: nn.Module, probe: Tensor) -> bool:
    """Compare the outputs in evaluation mode; False after an exception, which the original raises again."""
    try:
        with in_mode(module, training=False):
            answers = tree_leaves(module(probe)), tree_leaves(fused(probe))
    except Exception:
        return False
    return len(answers[0]) == len(answers[1]) and all(map(_same, *answers))


def _same(expected: Any, found: Any) -> bool:
    if not isinstance(expected, Tensor) or not isinstance(found, Tensor) or expected.shape != found.shape:
        return False
    return bool((expected - found).abs().max() <= _TOLERANCE * expected.abs().max())
