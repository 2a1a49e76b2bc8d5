"""Adam with a state of its own for every image of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zskd.core.types import Images

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass
class LaneAdam:
    """Moments and step counts of a batch in which every image is a lane of its own (Kingma and Ba 2015).

    `torch.optim.Adam` counts steps per tensor. Here a lane can be given to a fresh image without touching
    its neighbours, and goes on exactly as it would alone.
    """

    first: Images
    second: Images
    steps: Tensor
    """Steps taken by each lane (N,), float32."""

    @classmethod
    def fresh(cls, images: Images) -> LaneAdam:
        """Return a state for images that have not been moved yet."""
        return cls(torch.zeros_like(images), torch.zeros_like(images), images.new_zeros(len(images)))

    def reset(self, lanes: Tensor) -> None:
        """Forget what some lanes have done."""
        self.first[lanes] = 0
        self.second[lanes] = 0
        self.steps[lanes] = 0

    def update(self, images: Images, gradient: Images, learning_rate: float) -> None:
        """Take one step in place."""
        self.steps += 1
        self.first.lerp_(gradient, 1 - _BETA1)
        self.second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        # 1 − βᵗ, exact for small t too
        rate, correction = (-torch.expm1(self.steps * math.log(beta)) for beta in (_BETA1, _BETA2))
        step = self.second.sqrt().div_(correction.sqrt().view(-1, 1, 1, 1)).add_(_EPSILON)
        images.addcdiv_(self.first, step.mul_(rate.view(-1, 1, 1, 1)), value=-learning_rate)
