"""Of which kind a network is, by what its forward pass computes."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zskd.core.errors import ZskdError
from zskd.models.chain import read_layers
from zskd.models.modes import frozen

Kind = Literal["linear", "small chain", "chain", "residual", "depthwise", "attention"]
"""Linear layers alone; one chain of layers with few or many convolutions; convolutions beside each other or
beside shortcuts; depthwise convolutions; attention between positions."""
_FEW = 3
"""Convolutions of a small chain, at most."""
_aten = torch.ops.aten
_ATTENTION = ("scaled_dot_product", "multi_head_attention", "transformer_encoder")
"""Parts of the names of operations that attend as a whole."""


def kind_of(module: nn.Module, inputs: Tensor) -> Kind:
    """Return of which kind a network is: by what it computes, however its layers are written.

    Args:
        module: not changed.
        inputs: normalised images (N, C, H, W), on its device.
    """
    seen = _Seen()
    with frozen(module), seen, torch.no_grad():
        module(inputs)
    if seen.attention:
        return "attention"
    if seen.depthwise:
        return "depthwise"
    if not seen.convolutions:
        return "linear"
    try:
        read_layers(module)
    except ZskdError:
        return "residual"
    return "small chain" if seen.convolutions <= _FEW else "chain"


class _Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations that tell the kind of a network."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.convolutions, self.depthwise, self.attention = 0, False, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note it."""
        name = func.overloadpacket.__name__
        if func.overloadpacket is _aten.convolution:
            self.convolutions += 1
            self.depthwise |= args[8] > 1 and args[8] == args[0].shape[1]
        # attention is a product of two batches of activations, or one operation
        batched = func.overloadpacket is _aten.bmm and len(args[0]) > 1
        self.attention |= batched or any(word in name for word in _ATTENTION)
        return func(*args, **(kwargs or {}))
