"""The optimisers of `OPTIMISERS`: functions (parameters, learning rate) → optimiser.

The state of an optimiser is saved with the weights, so its `state_dict()` must hold it as tensors or numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from zskd.training.muon import Muon


def adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015)."""
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)


def muon(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """Muon (Jordan et al. 2024)."""
    return Muon(parameters, lr=learning_rate)


def sgd(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """Gradient descent with momentum 0.9."""
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9)
