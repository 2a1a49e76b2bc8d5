"""Aligned features: those of the teacher, from the student's by a linear map that is never trained.

Romero et al. (FitNets, ICLR 2015, arXiv:1412.6550) train such a map with the student, from random weights. A
student with weights of its teacher needs none where it has the same channels, and elsewhere one that is known
before the training.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from zskd.distillation.features.base import FeatureLoss, FeatureMaps
from zskd.distillation.initialisation.ridge import fit_layer, rows_of_image


class Aligned(FeatureLoss):
    """Mean squared difference of the teacher's features T and of a fixed map of the student's, over mean T².

    The map is the identity where both have the same number of channels, as in copies that keep the widths
    between blocks. Otherwise it is fitted to both networks before the first step, by ridge regression. In
    units of T, one weight fits all stages and networks.
    """

    weight: Tensor
    """(C', C, 1, 1)"""
    bias: Tensor
    """(C',)"""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__(student, teacher)
        self.register_buffer("weight", torch.eye(teacher, student)[:, :, None, None])
        self.register_buffer("bias", torch.zeros(teacher))

    @property
    def begins(self) -> bool:
        """Whether channels differ."""
        return len(self.weight) != self.weight.shape[1]

    def begin(self, student: FeatureMaps, teacher: FeatureMaps, rng: Generator) -> None:
        """Fit the map."""
        layer = nn.Conv2d(student.shape[1], teacher.shape[1], 1).to(student.device)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        rows = len(student) * rows_of_image(layer, math.prod(student.shape[2:]))
        fit_layer(layer, [(student, teacher)], rows, rng)
        self.weight.copy_(layer.weight)
        self.bias.copy_(layer.bias)  # type: ignore[arg-type]

    def of_student(self, features: FeatureMaps) -> Tensor:
        """Return features with the teacher's channels (N, C', h, w)."""
        return F.conv2d(features, self.weight, self.bias) if self.begins else features

    def of_teacher(self, features: FeatureMaps) -> Tensor:
        """Return the teacher's features (N, C', h, w)."""
        return features

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of one pair, a scalar."""
        scale = teacher.square().mean().clamp_min(torch.finfo(teacher.dtype).tiny)
        return (student - teacher).square().mean() / scale
