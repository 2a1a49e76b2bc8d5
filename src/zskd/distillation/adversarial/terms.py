"""Terms that several generator methods share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.core.types import Logits


def divergences(student: Logits, teacher: Logits) -> Tensor:
    """Return KL(T ‖ S) at τ = 1 of each image in nats (N,), at least 0."""
    log_s, log_t = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    return F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)


def balance(logits: Logits) -> Tensor:
    """Return Σ_k p̄_k log p̄_k of the mean output p̄ of a batch, at most 0: −log K for equal classes."""
    of_classes = logits.softmax(1).mean(0)
    return torch.xlogy(of_classes, of_classes).sum()
