"""Attention transfer: maps of where in the image features are large.

Zagoruyko, Komodakis: "Paying More Attention to Attention", ICLR 2017, arXiv:1612.03928.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from zskd.distillation.features.base import FeatureLoss, FeatureMaps


class Attention(FeatureLoss):
    """Mean squared difference of attention maps of length 1.

    Section 3.1 has half the sum over pairs of their Euclidean distance; squares and means are those of the
    authors' code.
    """

    needs_places = True

    def of_student(self, features: FeatureMaps) -> Tensor:
        """Return attention maps (N, h·w) of length 1: means over channels of the squared, rectified features.

        (F with p = 2, section 3.1.)
        """
        return F.normalize(F.relu(features).square().mean(1).flatten(1))

    of_teacher = of_student
