"""The same network, cheaper to run: convolutions take over their batch-norm and their pooling.

A rewritten network shares every parameter with the one that it was made of, holds nothing of its own, and
answers the same up to rounding, in training and evaluation, on any device. Its gradients are the same up to
rounding too, but that where several values of a pooling window are equal, rounding decides which of them
counts as the largest.

- A batch-norm in evaluation mode is an affine map of each filter: it is folded into the filter.
- A convolution of few channels leaves most of a processor's vector lanes empty, and max-pooling behind it
  reads every value again. Both together are one convolution of 2×2 blocks (space-to-depth) that gives the
  four values of each pooling window as channels, of which the largest is kept.
- ReLU behind a convolution and before its pooling changes places with the pooling.

Layers that somebody watches or changes by hooks are run as they are.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from zskd.core.errors import ZskdError
from zskd.models.chain import layer_of
from zskd.models.modes import in_mode

_Layer = TypeVar("_Layer", bound=nn.Module)
_TOLERANCE = 1e-4
"""Largest difference of two answers, relative to the largest one, that counts as rounding."""


def fuse_layers(module: nn.Module, probe: Tensor) -> tuple[nn.Module, tuple[str, ...]]:
    """Return an equivalent network that is cheaper to run, and the names of the convolutions that changed.

    Args:
        module: any network; left as it is.
        probe: an input, to compare the answers on.

    Returns:
        The module itself and no names where nothing can be merged: its forward pass cannot be traced,
        depends on whether it is training, or holds no such convolution.
    """
    graph = _trace(module)
    if graph is None:
        return module, ()
    quick = fx.GraphModule(module, graph)
    names = [str(node.target) for node in list(graph.nodes) if _merge(quick, node)]
    if not names:
        return module, ()
    graph.lint()
    quick.recompile()
    return (quick, tuple(names)) if _agree(module, quick, probe) else (module, ())


class FusedConv(nn.Module):
    """A convolution with the batch-norm and the 2×2 max-pooling that follow it.

    Args:
        conv: whose weights are used; it stays the owner.
        norm: batch-norm behind it, if any.
        pool: whether 2×2 max-pooling follows.
        watched: layers whose hooks would not be called.
    """

    def __init__(
        self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, pool: bool, watched: tuple[nn.Module, ...] = ()
    ) -> None:
        super().__init__()
        self.conv, self.norm, self.pool = conv, norm, pool
        self._watched = watched

    def forward(self, images: Tensor) -> Tensor:
        """Return what the layers would return one after the other."""
        if self._stays_apart():
            values = self.conv(images)
            values = values if self.norm is None else self.norm(values)
            return F.max_pool2d(values, 2) if self.pool else values
        weight, bias = self._folded()
        if self.pool and self._fits_blocks(images):
            return self._in_blocks(images, weight, bias)
        conv = self.conv
        values = F.conv2d(images, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        return F.max_pool2d(values, 2) if self.pool else values

    def _stays_apart(self) -> bool:
        """Whether somebody would see that the layers are not run one after the other."""
        if self.norm is not None and (self.norm.training or self.norm.running_mean is None):
            return True
        return any(_has_hooks(layer) for layer in (self.conv, self.norm, *self._watched) if layer is not None)

    def _folded(self) -> tuple[Tensor, Tensor | None]:
        """Weights and bias that do the batch-norm as well: γ(Wx + b − μ)/σ + β."""
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
        """Convolve 2×2 blocks with the filters at the four places of a pooling window, and keep the best."""
        vertical, horizontal = map(int, self.conv.padding)
        padding = [horizontal, horizontal, vertical, vertical]
        blocks = F.pixel_unshuffle(F.pad(images, padding), 2)
        places = [
            F.pixel_unshuffle(F.pad(weight, (right, 1 - right, down, 1 - down)), 2)
            for down in (0, 1)
            for right in (0, 1)
        ]
        return best_of_four(
            F.conv2d(blocks, torch.cat(places).contiguous(), None if bias is None else bias.repeat(4))
        )


class _BestOfFour(torch.autograd.Function):
    """Maximum over four groups of channels; the gradient goes to the first that reaches it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        count = len(values)
        # the places become the rows of a picture whose channels lie last: pooling then reads whole vectors
        rows = values.reshape(count, 4, 1, -1).permute(0, 3, 1, 2)
        best, place = F.max_pool2d(rows, (4, 1), return_indices=True)
        ctx.save_for_backward(place.reshape(count, 1, -1))
        ctx.shape = values.shape
        return best

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        (place,) = ctx.saved_tensors
        spread = gradient.new_zeros(len(gradient), 4, place.shape[2])
        spread.scatter_(1, place, gradient.reshape(len(gradient), 1, -1))
        return spread.view(ctx.shape)


def best_of_four(values: Tensor) -> Tensor:
    """Return the maximum over four groups of channels: (N, 4·C, H, W) → (N, C, H, W)."""
    best: Tensor = _BestOfFour.apply(values)  # type: ignore[no-untyped-call]
    # given its shape out here, or a ReLU in place could not follow
    return best.reshape(len(values), -1, *values.shape[2:])


def _few_channels(conv: nn.Conv2d) -> bool:
    """Whether blocks are faster: beyond a few channels their larger kernels cost more than they save."""
    return conv.in_channels <= conv.kernel_size[0] + 1


def _has_hooks(layer: nn.Module) -> bool:
    return bool(
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    )


def _trace(module: nn.Module) -> fx.Graph | None:
    """Return the graph of the forward pass; None where it cannot be had or changes with `training`.

    Nor where the pass reads tensors that no layer owns: the graph would keep its own when they are replaced.
    """
    graphs = []
    for training in (True, False):
        with in_mode(module, training=training):
            try:
                graphs.append(fx.symbolic_trace(module).graph)
            except Exception:  # fx raises whatever the user's forward pass raises
                return None
    own = any(node.op == "get_attr" for node in graphs[0].nodes)
    return graphs[0] if str(graphs[0]) == str(graphs[1]) and not own else None


def _merge(quick: fx.GraphModule, node: fx.Node) -> bool:
    """Merge what follows a convolution into it; tell whether anything did."""
    conv = _module(quick, node, nn.Conv2d)
    if conv is None:
        return False
    last, norm, relu, pool = node, None, None, None
    if (user := _only_user(last)) is not None:
        norm = _module(quick, user, nn.BatchNorm2d)
        last = user if norm is not None else last
    behind = _only_user(last)
    if behind is not None and _is(quick, behind, "ReLU"):
        relu, behind = behind, _only_user(behind)
    if behind is not None and _is(quick, behind, "MaxPool2d"):
        pool = behind
    # without a batch-norm or blocks nothing is gained
    if norm is None and (pool is None or not _few_channels(conv)):
        return False
    name = f"merged_{node.name}"
    gone = (_module(quick, one, kind) for one, kind in ((pool, nn.MaxPool2d), (relu, nn.ReLU)) if one)
    watched = tuple(layer for layer in gone if layer is not None)
    quick.add_module(name, FusedConv(conv, norm, pool is not None, watched))
    with quick.graph.inserting_before(node):
        merged = quick.graph.call_module(name, node.args)
    last.replace_all_uses_with(merged)
    if pool is not None:
        pool.replace_all_uses_with(merged if relu is None else relu)
        quick.graph.erase_node(pool)
    for old in dict.fromkeys((last, node)):
        quick.graph.erase_node(old)
    return True


def _module(quick: fx.GraphModule, node: fx.Node, kind: type[_Layer]) -> _Layer | None:
    """Return the module that a node calls with one input, if it is just of that kind."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    found = quick.get_submodule(str(node.target))
    return found if type(found) is kind else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is(quick: fx.GraphModule, node: fx.Node, name: str) -> bool:
    """Whether a node is a ReLU, or max-pooling of 2×2 without overlap."""
    try:
        layer = layer_of(quick, node)
    except ZskdError:
        return False
    if layer is None or layer[0] != name:
        return False
    if name == "ReLU":
        return True
    wanted = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1, "ceil_mode": False}
    given = {"stride": 2} | {key: _square(value) for key, value in layer[1].items()}
    return wanted | given == wanted


def _square(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(set(value)) == 1 else value


@torch.no_grad()
def _agree(module: nn.Module, quick: nn.Module, probe: Tensor) -> bool:
    """Compare the answers in evaluation mode; whatever is wrong with a network, the original shall tell."""
    try:
        with in_mode(module, training=False):
            wanted, got = module(probe), quick(probe)
    except Exception:
        return False
    if not isinstance(wanted, Tensor) or wanted.shape != got.shape:
        return False
    return bool((wanted - got).abs().max() <= _TOLERANCE * wanted.abs().max())
