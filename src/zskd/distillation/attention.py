"""Attention transfer: where in the picture a network's convolutions answer.

Zagoruyko, Komodakis: "Paying More Attention to Attention", ICLR 2017, arXiv:1612.03928.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd.core.errors import ZskdError
from zskd.core.types import Images, Logits
from zskd.models.classifier import Classifier


def attend(classifier: Classifier, images: Images) -> tuple[Logits, list[Tensor]]:
    """Return the answers (N, K), and one map of unit length (N, H·W) per convolution, in order of use.

    A map is the mean over channels of the squared, rectified outputs  (equation 1, p = 2).
    """
    maps: list[Tensor] = []

    def note(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        # before whatever works in place reaches it
        maps.append(F.normalize(F.relu(output).square().mean(1).flatten(1)))

    convolutions = [layer for layer in classifier.module.modules() if isinstance(layer, nn.Conv2d)]
    handles = [layer.register_forward_hook(note) for layer in convolutions]
    rewrite, classifier.rewrite = classifier.rewrite, False  # merged layers are others
    try:
        return classifier(images), maps
    finally:
        classifier.rewrite = rewrite
        for handle in handles:
            handle.remove()


def check_attention(teacher: Classifier, student: Classifier) -> None:
    """Refuse networks whose maps cannot be compared.

    Raises:
        ZskdError: they have no convolutions, or other ones.
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
    """Return the sum over layers of the mean squared difference of the maps."""
    return torch.stack([(s - t).square().mean() for s, t in zip(student, teacher, strict=True)]).sum()
