"""Attention transfer: maps of where in the image the outputs of a network's convolutions are large.

Zagoruyko, Komodakis: "Paying More Attention to Attention", ICLR 2017, arXiv:1612.03928.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd.core.errors import ZskdError
from zskd.core.types import Images, Logits
from zskd.models.classifier import Classifier
from zskd.models.observation import observe


def attend(classifier: Classifier, images: Images) -> tuple[Logits, list[Tensor]]:
    """Return the logits (N, K), and per convolution, in order of use, an attention map (N, H·W) of length 1.

    A map is the mean over channels of the squared, rectified outputs  (equation 1, p = 2).

    Args:
        classifier: any.
        images: (N, C, H, W) in [0, 1].
    """
    observed = observe(classifier, images, outputs_of=(nn.Conv2d,), with_features=False)
    maps = [F.relu(layer.value).square().mean(1).flatten(1) for layer in observed.layers]
    return observed.logits, [F.normalize(one) for one in maps]


def check_attention(teacher: Classifier, student: Classifier) -> None:
    """Refuse networks whose attention maps cannot be compared.

    Raises:
        ZskdError: they have no convolutions, or convolutions whose outputs have other sizes.
    """
    low, high = teacher.spec.box
    probe = torch.full((1, *teacher.spec.shape), (low + high) / 2, device=teacher.device)
    with torch.no_grad():
        sizes = [[one.shape[1] for one in attend(network, probe)[1]] for network in (student, teacher)]
    if sizes[0] != sizes[1] or not sizes[0]:
        raise ZskdError(
            f"attention transfer pairs the convolutions of student and teacher, whose outputs have "
            f"{sizes[0]} and {sizes[1]} pixels: give --distill.attention 0"
        )


def attention_distance(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Return the sum over layers of the mean squared difference of the maps (N, H·W), a scalar."""
    return torch.stack([(s - t).square().mean() for s, t in zip(student, teacher, strict=True)]).sum()
