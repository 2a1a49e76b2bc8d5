"""Count the multiply-adds of a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from zskd.models.modes import by_plain_operations, frozen


def count_multiply_adds(network: nn.Module, image: Tensor) -> int:
    """Return the multiply-adds of one image's forward pass: convolutions and matrix products.

    Args:
        network: run in evaluation mode; left as it is.
        image: normalised (1, C, H, W), on the network's device.
    """
    counter = FlopCounterMode(display=False)
    with (
        frozen(network),
        by_plain_operations(),
        _without_onednn(),
        sdpa_kernel(SDPBackend.MATH),
        counter,
        torch.no_grad(),
    ):
        network(image)
    return int(counter.get_total_flops()) // 2


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Run an LSTM by matrix products, not by an operation of oneDNN that the counter does not know."""
    onednn: Any = torch.backends.mkldnn  # its properties are declared as the objects behind them
    enabled = onednn.enabled
    try:
        onednn.enabled = False
        yield
    finally:
        onednn.enabled = enabled
