"""Logits of more images than fit through a network at once."""

from __future__ import annotations

import torch

from zskd.core.memory import at_once
from zskd.core.types import Images, Logits
from zskd.models.classifier import Classifier


def logits_in_parts(classifier: Classifier, images: Images, most: int) -> Logits:
    """Return logits (N, K) on the classifier's device, without gradients.

    Args:
        classifier: in evaluation mode.
        images: (N, C, H, W) in [0, 1], on any device.
        most: images in one forward pass; of images larger than 64×64 pixels, there are fewer.
    """
    size, device = at_once(most, images.shape), classifier.device
    with torch.no_grad():
        return torch.cat([classifier(part.to(device)) for part in torch.split(images, size)])
