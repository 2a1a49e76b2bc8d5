"""Count the multiply-adds of a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from zskd.core.errors import ZskdError, one_line
from zskd.models.modes import by_plain_operations, frozen


def count_multiply_adds(network: nn.Module, image: Tensor) -> int:
    """Return the multiply-adds of one image's forward pass: convolutions and matrix products.

    Args:
        network: run in evaluation mode; left as it is.
        image: normalised (1, C, H, W), on the network's device.

    Raises:
        ZskdError: the network does not run for one image.
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
        try:
            network(image)
        except ValueError as error:  # of torch's batch-norm
            raise not_alone(error) from error
    return int(counter.get_total_flops()) // 2


def not_alone(error: ValueError) -> ZskdError:
    """Return the error for a network that does not run for one image, of what it raised."""
    return ZskdError(
        f"the network does not run for one image alone ({one_line(error)}): let its batch-norm use running "
        "statistics (track_running_stats=True) in evaluation mode"
    )


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
