"""Similarity-preserving distillation: which images of a batch excite a stage in the same way.

Tung, Mori: "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv:1907.09682.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from zskd.distillation.features.base import FeatureLoss, FeatureMaps


class Similarity(FeatureLoss):
    """Mean squared difference of the similarities of all pairs of images (equation 4). It couples a batch."""

    def of_student(self, features: FeatureMaps) -> Tensor:
        """Return inner products of the images' features (N, N), each row of length 1 (equations 1 to 3)."""
        flat = features.flatten(1)
        return F.normalize(flat @ flat.T)

    of_teacher = of_student
