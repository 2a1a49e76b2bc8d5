"""A way around a defect of oneDNN, which torch computes convolutions with on processors.

Gradients of the weights of 1×1 convolutions with a stride, for images channels-last with fewer channels than
fill a register (8 with AVX2, 16 with AVX-512), are written past the end of a buffer: the process dies, or the
gradients are wrong (github.com/uxlfoundation/oneDNN/issues/6035, open in torch 2.14). Shortcuts of narrow
residual networks are such convolutions. Every stride-th pixel, and then a convolution without a stride, is
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FEWER = 16
"""Channels of each group that fill a register of AVX-512."""
_Sizes = int | tuple[int, int]


def is_affected(*modules: nn.Module) -> bool:
    """Return whether a network on a processor has such a convolution, or weights that may be of one."""
    return any(
        weight.ndim == 4 and weight.shape[1] < _FEWER and weight.shape[2:] == (1, 1) and weight.is_cpu
        for module in modules
        for layer in module.modules()
        if not isinstance(layer, nn.Conv2d) or max(layer.stride) > 1
        for weight in layer.parameters(recurse=False)
    )


def sound_gradients(*modules: nn.Module) -> AbstractContextManager[Any]:
    """Return a block in which the gradients of the networks' weights are right; empty if they always are."""
    return _WithoutStrides() if is_affected(*modules) else nullcontext()


class _WithoutStrides(TorchFunctionMode):
    """Computes the convolutions in question without a stride, also those that a user's code calls."""

    def __torch_function__(
        self, function: Any, types: Any, given: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, or what is equal to it."""
        convolve: Callable[..., Any] = _convolution if function is torch.conv2d else function
        return convolve(*given, **(named or {}))


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Sizes = 1,
    padding: _Sizes | str = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
) -> Tensor:
    down, right = _pair(stride)
    if weight.shape[1] >= _FEWER or weight.shape[2:] != (1, 1) or down == right == 1:
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    above, beside = (0, 0) if isinstance(padding, str) else _pair(padding)
    padded = F.pad(input, (beside, beside, above, above)) if above or beside else input
    return torch.conv2d(padded[..., ::down, ::right], weight, bias, groups=groups)


def _pair(sizes: _Sizes) -> tuple[int, int]:
    both = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return both[0], both[-1]
