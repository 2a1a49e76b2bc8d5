"""Muon: momentum; the update of each matrix is made nearly orthogonal.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"
(kellerjordan.github.io/posts/muon). A few strong directions of its matrices slow down the training of a small
student; Muon makes all directions of an update equally long.

`torch.optim.Muon` does not support convolutions, and it uses bfloat16, which is slow on most CPUs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Jordan's coefficients: a polynomial that brings singular values near 1 in few iterations."""
_ITERATIONS = 3
_MOMENTUM = 0.95
_RMS = 0.2
"""Root mean square of an update at learning rate 1, as for Adam, so that both use the same learning rate
(Liu et al. 2025, arXiv:2502.16982, section 2.2)."""
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Muon(torch.optim.Optimizer):
    """Muon for matrices and convolutions (one row per filter); Adam for all other parameters."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; the numbers of steps stay on the CPU, where each step reads them."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            if "steps" in state:
                state["steps"] = state["steps"].cpu()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
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
    """Return approximately U·Vᵀ of a matrix U·S·Vᵀ (R, C), by a Newton–Schulz iteration.

    The result has singular values between 0.6 and 1.2, except those that were far below the largest.
    """
    a, b, c = _QUINTIC
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    # of entries below 1e-23 the norm is 0 in float32: their step becomes tiny instead of infinite
    wide = wide / wide.norm().clamp_min(1e-20)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
