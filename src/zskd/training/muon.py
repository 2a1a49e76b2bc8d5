"""Muon: momentum whose matrices are made nearly orthogonal before they are taken as a step.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"
(kellerjordan.github.io/posts/muon). A small student that learns one function from endless images is held up
by a few strong directions of its matrices; here all directions of a step are equally long.

`torch.optim.Muon` takes no convolutions, and rounds to bfloat16, which most processors have no fast way with.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Jordan's coefficients: a polynomial that brings every singular value near 1 in few turns."""
_TURNS = 3
_MOMENTUM = 0.95
_RMS = 0.2
"""Root mean square of a step at learning rate 1, like one of Adam's, so that both go by one learning rate
(Liu et al. 2025, arXiv:2502.16982, section 2.2)."""
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Muon(torch.optim.Optimizer):
    """Muon for matrices and filters, all filters of a layer as the rows of one; Adam for the rest."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step; parameters without a gradient stay."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._orthogonal if parameter.ndim > 1 else self._adam
                    parameter.add_(update(parameter, parameter.grad), alpha=-group["lr"])

    def _orthogonal(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        ahead = gradient.lerp(momentum, _MOMENTUM).flatten(1)
        scale = _RMS * max(ahead.shape) ** 0.5
        return orthogonal(ahead).mul_(scale).view_as(parameter)

    def _adam(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["first"], state["second"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["steps"] = torch.zeros(())
        state["steps"] += 1
        first: Tensor = state["first"].lerp_(gradient, 1 - _BETA1)
        second: Tensor = state["second"].lerp_(gradient.square(), 1 - _BETA2)
        done = float(state["steps"])
        root = (second / (1 - _BETA2**done)).sqrt_().add_(_EPSILON)
        update: Tensor = first / (1 - _BETA1**done) / root
        return update


def orthogonal(matrix: Tensor) -> Tensor:
    """Return roughly U·Vᵀ of a matrix U·S·Vᵀ (R, C), by a Newton–Schulz iteration.

    Singular values end between 0.6 and 1.2, but for those far below the largest.
    """
    a, b, c = _QUINTIC
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-30)
    for _ in range(_TURNS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
