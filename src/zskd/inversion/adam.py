"""Adam with a state of its own for every image of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zskd.types import Images

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass
class LaneAdam:
    """Moments and step counts of a batch in which every image is a lane of its own (Kingma and Ba 2015).

    `torch.optim.Adam` counts steps per tensor. Here a lane can be replaced by a fresh image without
    touching its neighbours, and goes on exactly as it would alone.
    """

    first: Images
    second: Images
    steps: Tensor
    """Steps taken by each lane (N,), int32."""

    @classmethod
    def fresh(cls, images: Images) -> LaneAdam:
        """Return a state for images that have not been moved yet."""
        return cls(
            torch.zeros_like(images), torch.zeros_like(images), torch.zeros(len(images), dtype=torch.int32)
        )

    def update(self, images: Images, gradient: Images, learning_rate: float) -> None:
        """Take one step in place."""
        self.steps += 1
        self.first.lerp_(gradient, 1 - _BETA1)
        self.second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        taken = self.steps.to(torch.float64).view(-1, 1, 1, 1)
        rate = (learning_rate / (1 - _BETA1**taken)).float()
        correction = (1 - _BETA2**taken).sqrt().float()
        step = self.second.sqrt().div_(correction).add_(_EPSILON).reciprocal_().mul_(self.first)
        images.sub_(step.mul_(rate))
