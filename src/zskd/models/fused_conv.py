"""A convolution together with the batch-norm and the pooling that follow it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Filters = tuple[Tensor, Tensor | None]
"""Weight and bias of a convolution."""


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
        if self.pool and self._fits_blocks(images):
            return self._in_blocks(images, *self._block_filters())
        weight, bias = self._folded()
        conv = self.conv
        values = F.conv2d(images, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        return F.max_pool2d(values, 2) if self.pool else values

    def _runs_unfused(self) -> bool:
        """Return whether fusion would change results or skip hooks."""
        if self.norm is not None and (self.norm.training or self.norm.running_mean is None):
            return True
        return any(_has_hooks(layer) for layer in (self.conv, self.norm, *self._watched) if layer is not None)

    def _folded(self) -> Filters:
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

    def _may_use_blocks(self) -> bool:
        conv = self.conv
        if not few_channels(conv) or not isinstance(conv.padding, tuple):
            return False
        plain = conv.groups == 1 and conv.stride == conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        return plain and all(side % 2 == 1 for side in conv.kernel_size)

    def _fits_blocks(self, images: Tensor) -> bool:
        if not self._may_use_blocks() or not len(images):
            return False
        sides = zip(images.shape[2:], map(int, self.conv.padding), strict=True)
        return all((side + 2 * padding) % 2 == 0 for side, padding in sides)

    def _block_filters(self) -> Filters:
        """Return filters of 2×2 blocks at the four positions of a pooling window."""
        weight, bias = self._folded()
        shifted = [
            F.pixel_unshuffle(F.pad(weight, (right, 1 - right, down, 1 - down)), 2)
            for down in (0, 1)
            for right in (0, 1)
        ]
        return torch.cat(shifted).contiguous(), None if bias is None else bias.repeat(4)

    def _in_blocks(self, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve 2×2 blocks with filters at the four positions of a pooling window; take the maximum."""
        vertical, horizontal = map(int, self.conv.padding)
        padding = [horizontal, horizontal, vertical, vertical]
        blocks = F.pixel_unshuffle(F.pad(images, padding), 2)
        return max_of_four(F.conv2d(blocks, weight, bias))


class FixedConv(FusedConv):
    """A fused convolution in evaluation mode whose filters are computed once, for weights that do not change.

    Args:
        fused: the convolution; its present weights are used.
    """

    def __init__(self, fused: FusedConv) -> None:
        super().__init__(fused.conv, fused.norm, fused.pool)
        with torch.no_grad():
            self._fixed = fused._folded()
            self._fixed_blocks = fused._block_filters() if fused._may_use_blocks() else None

    def _runs_unfused(self) -> bool:
        return False

    def _folded(self) -> Filters:
        return self._fixed

    def _block_filters(self) -> Filters:
        return self._fixed_blocks or super()._block_filters()


def fix_filters(network: nn.Module) -> nn.Module:
    """Return the network with the filters of its fused convolutions computed once; changed in place.

    Convolutions that run unfused, because of hooks or batch statistics, are left.

    Args:
        network: in evaluation mode; its weights must not change afterwards.
    """
    for name, layer in list(network.named_modules()):
        if type(layer) is FusedConv and not layer._runs_unfused():
            network.set_submodule(name, FixedConv(layer))
    return network


class _MaxOfFour(torch.autograd.Function):
    """Maximum over four groups of channels; the gradient goes to the first maximal entry.

    It is passed on by thresholds of differences, which a CPU computes on whole vectors, unlike indices.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        first, second, third, fourth = values.chunk(4, dim=1)
        upper, lower = torch.maximum(first, second), torch.maximum(third, fourth)
        ctx.save_for_backward(second - first, fourth - third, lower - upper)
        return torch.maximum(upper, lower)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        second, fourth, lower = ctx.saved_tensors
        of_lower = _where_positive(gradient, lower)
        pairs = (gradient - of_lower, second), (of_lower, fourth)
        split = [(pair - (later := _where_positive(pair, margin)), later) for pair, margin in pairs]
        return torch.cat([*split[0], *split[1]], dim=1)


def _where_positive(gradient: Tensor, margin: Tensor) -> Tensor:
    """Return the gradient where a margin is above 0, and 0 elsewhere."""
    passed: Tensor = torch.ops.aten.threshold_backward(gradient, margin, 0)
    return passed


def max_of_four(values: Tensor) -> Tensor:
    """Return the maximum over four groups of channels: (N, 4·C, H, W) → (N, C, H, W)."""
    largest: Tensor = _MaxOfFour.apply(values)  # type: ignore[no-untyped-call]
    return largest


def few_channels(conv: nn.Conv2d) -> bool:
    """Return whether blocks are faster: with more channels, their larger kernels cost more than they save."""
    return conv.in_channels <= conv.kernel_size[0] + 1


def _has_hooks(layer: nn.Module) -> bool:
    return bool(
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    )
