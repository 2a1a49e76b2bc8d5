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

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from zskd.core.errors import ZskdError
from zskd.models.chain import layer_of
from zskd.models.modes import in_mode
from zskd.models.tracing import trace

_Layer = TypeVar("_Layer", bound=nn.Module)
_TOLERANCE = 1e-4
"""Largest difference of two outputs, relative to the largest output, that counts as rounding."""


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


class FusedConv(nn.Module):
    """A convolution with the batch-norm and the 2×2 max-pooling that follow it.

    Args:
        conv: the convolution; its weights are used, not copied.
        norm: batch-norm after it, if any.
        pool: whether 2×2 max-pooling follows.
        watched: other fused layers; if one has hooks, the layers run unfused.
    """

    def __init__(
        self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, pool: bool, watched: tuple[nn.Module, ...] = ()
    ) -> None:
        super().__init__()
        self.conv, self.norm, self.pool = conv, norm, pool
        self._watched = watched

    def forward(self, images: Tensor) -> Tensor:
        """Return the output of the layers in sequence: images (N, C, H, W) → (N, C', H', W')."""
        if self._runs_unfused():
            values = self.conv(images)
            values = values if self.norm is None else self.norm(values)
            return F.max_pool2d(values, 2) if self.pool else values
        weight, bias = self._folded()
        if self.pool and self._fits_blocks(images):
            return self._in_blocks(images, weight, bias)
        conv = self.conv
        values = F.conv2d(images, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        return F.max_pool2d(values, 2) if self.pool else values

    def _runs_unfused(self) -> bool:
        """Return whether fusion would change results or skip hooks."""
        if self.norm is not None and (self.norm.training or self.norm.running_mean is None):
            return True
        return any(_has_hooks(layer) for layer in (self.conv, self.norm, *self._watched) if layer is not None)

    def _folded(self) -> tuple[Tensor, Tensor | None]:
        """Return weights and bias that include the batch-norm: γ(Wx + b − μ)/σ + β."""
        weight, bias, norm = self.conv.weight, self.conv.bias, self.norm
        if norm is None or norm.running_mean is None or norm.running_var is None:
            return weight, bias
        scale = torch.rsqrt(norm.running_var + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight
        shift = -norm.running_mean * scale
        if bias is not None:
            shift = shift + bias * scale
        if norm.bias is not None:
            shift = shift + norm.bias
        return weight * scale.view(-1, 1, 1, 1), shift

    def _fits_blocks(self, images: Tensor) -> bool:
        conv = self.conv
        if not _few_channels(conv) or not isinstance(conv.padding, tuple) or not len(images):
            return False
        plain = conv.groups == 1 and conv.stride == conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        odd = all(side % 2 == 1 for side in conv.kernel_size)
        sides = zip(images.shape[2:], conv.padding, strict=True)
        return plain and odd and all((side + 2 * padding) % 2 == 0 for side, padding in sides)

    def _in_blocks(self, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve 2×2 blocks with filters at the four positions of a pooling window; take the maximum."""
        vertical, horizontal = map(int, self.conv.padding)
        padding = [horizontal, horizontal, vertical, vertical]
        blocks = F.pixel_unshuffle(F.pad(images, padding), 2)
        shifted = [
            F.pixel_unshuffle(F.pad(weight, (right, 1 - right, down, 1 - down)), 2)
            for down in (0, 1)
            for right in (0, 1)
        ]
        return max_of_four(
            F.conv2d(blocks, torch.cat(shifted).contiguous(), None if bias is None else bias.repeat(4))
        )


class _MaxOfFour(torch.autograd.Function):
    """Maximum over four groups of channels; the gradient goes to the first maximal entry."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        count = len(values)
        # the four groups become rows of a channels-last image, so that pooling reads whole vectors
        rows = values.reshape(count, 4, 1, -1).permute(0, 3, 1, 2)
        largest, index = F.max_pool2d(rows, (4, 1), return_indices=True)
        ctx.save_for_backward(index.reshape(count, 1, -1))
        ctx.shape = values.shape
        return largest

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        (index,) = ctx.saved_tensors
        spread = gradient.new_zeros(len(gradient), 4, index.shape[2])
        spread.scatter_(1, index, gradient.reshape(len(gradient), 1, -1))
        return spread.view(ctx.shape)


def max_of_four(values: Tensor) -> Tensor:
    """Return the maximum over four groups of channels: (N, 4·C, H, W) → (N, C, H, W)."""
    largest: Tensor = _MaxOfFour.apply(values)  # type: ignore[no-untyped-call]
    # reshaped here, so that an in-place ReLU can follow
    return largest.reshape(len(values), -1, *values.shape[2:])


def _few_channels(conv: nn.Conv2d) -> bool:
    """Return whether blocks are faster: with more channels, their larger kernels cost more than they save."""
    return conv.in_channels <= conv.kernel_size[0] + 1


def _has_hooks(layer: nn.Module) -> bool:
    return bool(
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    )


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
    if norm is None and (pool is None or not _few_channels(conv)):
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
