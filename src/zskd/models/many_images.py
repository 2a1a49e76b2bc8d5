"""Logits of more images than fit through a network at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F

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


def logits_in_batches(classifier: Classifier, images: Images, batch: int) -> Logits:
    """Return logits (N, K) on the CPU, computed in batches of one size: their bits depend on it.

    Args:
        classifier: in evaluation mode.
        images: (N, C, H, W) in the box.
        batch: images in each forward pass; the last batch is filled with zeros.
    """
    parts = []
    for part in torch.split(images, batch):
        padded = F.pad(part, (0, 0) * 3 + (0, batch - len(part)))
        parts.append(classifier(padded.to(classifier.device))[: len(part)].cpu())
    return torch.cat(parts)
