"""A network that is only asked for its outputs, from a checkpoint or from a file of another kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from zskd.core.types import Images, Logits
from zskd.models.checkpoint import StoredCard, load_checkpoint
from zskd.models.classifier import Classifier
from zskd.models.exported import ExportedNetwork


@dataclass(frozen=True)
class Opened:
    """A network that cannot be trained or taken apart."""

    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    """Channels, height and width of its images."""
    logits: Callable[[Images], Logits]
    """Logits (N, K) on the CPU of images (N, C, H, W) in [0, 1]."""
    classifier: Classifier | None
    """The network itself, where it is that of a checkpoint; not changed."""
    card: StoredCard | None
    """Likewise."""


def open_network(source: Path, *, model: str | None = None) -> Opened:
    """Open a network for its outputs.

    Args:
        source: folder of a checkpoint, or an ONNX file that `zskd export` wrote, float32 or int8.
        model: factory to run, for a checkpoint of a network in the user's own code.

    Raises:
        ZskdError: as for `load_checkpoint` and `ExportedNetwork`.
    """
    if source.suffix == ".onnx":
        exported = ExportedNetwork(source, threads=torch.get_num_threads())
        return Opened(exported.class_names, exported.shape, exported, None, None)
    classifier, card = load_checkpoint(source, model=model)
    classifier.freeze()

    def logits(images: Images) -> Logits:
        with torch.no_grad():
            answer: Logits = classifier(images.to(classifier.device))
        return answer.cpu()

    return Opened(classifier.class_names, classifier.spec.shape, logits, classifier, card)
