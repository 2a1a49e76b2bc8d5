"""Adam with a separate state for each image of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zskd.core.types import Images

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass
class LaneAdam:
    """Adam (Kingma and Ba 2015) with moments and step counts for each image of a batch, its lane.

    `torch.optim.Adam` counts steps per tensor. Here, a new image can replace the image of one lane without
    any effect on the others.
    """

    first: Images
    second: Images
    steps: Tensor
    """Steps taken by each lane (N,), float32."""

    @classmethod
    def fresh(cls, images: Images) -> LaneAdam:
        """Return the initial state for images (N, C, H, W)."""
        return cls(torch.zeros_like(images), torch.zeros_like(images), images.new_zeros(len(images)))

    def reset(self, lanes: Tensor) -> None:
        """Reset the state of some lanes.

        Args:
            lanes: their indices, or a mask (N,).
        """
        self.first[lanes] = 0
        self.second[lanes] = 0
        self.steps[lanes] = 0

    def update(self, images: Images, gradient: Images, learning_rate: float) -> None:
        """Take one step; images (N, C, H, W) are changed in place."""
        self.steps += 1
        self.first.lerp_(gradient, 1 - _BETA1)
        self.second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        # 1 − βᵗ, accurate for small t, too
        rate, correction = (-torch.expm1(self.steps * math.log(beta)) for beta in (_BETA1, _BETA2))
        step = self.second.sqrt().div_(correction.sqrt().view(-1, 1, 1, 1)).add_(_EPSILON)
        images.addcdiv_(self.first, step.mul_(rate.view(-1, 1, 1, 1)), value=-learning_rate)
