"""Hints: the student's features, mapped to the teacher's channels, shall equal the teacher's.

Romero et al.: "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv:1412.6550.
"""

from __future__ import annotations

from torch import Tensor, nn

from zskd.distillation.features.base import FeatureLoss, FeatureMaps


class FitNets(FeatureLoss):
    """Mean squared difference of the teacher's features and of the student's behind a regressor (equation 3).

    The paper has half the sum instead of the mean, one pair of stages, and a stage of training of its own
    before distillation; here all pairs count during distillation. Its regressor is a convolution of any size,
    here of 1×1.
    """

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__(student, teacher)
        self.regressor = nn.Conv2d(student, teacher, 1)

    def of_student(self, features: FeatureMaps) -> Tensor:
        """Return features with the teacher's channels (N, C', h, w)."""
        mapped: Tensor = self.regressor(features)
        return mapped

    def of_teacher(self, features: FeatureMaps) -> Tensor:
        """Return the teacher's features (N, C', h, w)."""
        return features
