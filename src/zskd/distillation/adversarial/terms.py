"""Terms that several generator methods share."""

from __future__ import annotations

import torch
from torch import Tensor

from zskd.core.types import Logits


def balance(logits: Logits) -> Tensor:
    """Return Σ_k p̄_k log p̄_k of the mean output p̄ of a batch, at most 0: −log K for equal classes."""
    # the logarithm of a class that no image has would have no finite gradient
    of_classes = logits.softmax(1).mean(0).clamp_min(torch.finfo(logits.dtype).tiny)
    return torch.xlogy(of_classes, of_classes).sum()


def uncertainty(logits: Logits) -> Tensor:
    """Return the mean entropy of the outputs (N, K) in nats, at least 0."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1).mean()
