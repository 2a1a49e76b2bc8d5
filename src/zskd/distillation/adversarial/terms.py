"""Terms that several generator methods share."""

from __future__ import annotations

import torch
from torch import Tensor

from zskd.core.types import Logits


def balance(logits: Logits) -> Tensor:
    """Return Σ_k p̄_k log p̄_k of the mean output p̄ of a batch, at most 0: −log K for equal classes."""
    of_classes = logits.softmax(1).mean(0)
    return torch.xlogy(of_classes, of_classes).sum()
