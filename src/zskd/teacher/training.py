"""Training a teacher on real images with their labels."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Generator, Tensor

from zskd.config.training import FitConfig
from zskd.core.device import read_every, to_device
from zskd.core.progress import Progress
from zskd.data.datasets import Dataset
from zskd.models.class_names import check_classes
from zskd.models.classifier import Classifier
from zskd.training.batches import Batch
from zskd.training.loop import fit, percent_of_class


def train_teacher(
    classifier: Classifier,
    data: Dataset,
    config: FitConfig,
    *,
    seed: int,
    state: str | Path | None = None,
    key: str = "",
    progress: Progress | None = None,
) -> Classifier:
    """Train a classifier in place with cross-entropy; keep the weights of the last step, without selection.

    Args:
        classifier: with its initial weights.
        data: only its training split is used.
        config: length, optimiser and schedule.
        seed: of order and dropout.
        state: file to save the state to and to resume from.
        key: identifies this training in that file.
        progress: receives every step.

    Returns:
        The classifier, frozen.

    Raises:
        ZskdError: classifier and data have different classes, or the loss diverges.
    """
    check_classes(classifier.class_names, data.class_names)
    split, device = data.train, classifier.device

    def prepare(rows: Tensor, _numbers: Generator) -> Batch:
        return to_device(split.images[rows], device), to_device(split.labels[rows], device)

    last: Batch = ()

    def loss(batch: Batch) -> Tensor:
        nonlocal last
        images, labels = batch
        logits = classifier(images)
        last = logits.detach(), labels
        return F.cross_entropy(logits, labels)

    def watch() -> dict[str, float]:
        logits, labels = last
        return {"accuracy": percent_of_class(logits, labels)}

    fit(
        classifier.module,
        prepare,
        loss,
        config,
        images=len(split),
        seed=seed,
        section="teacher",
        state=Path(state) if state else None,
        key=key,
        watch=watch,
        read_every=read_every(device),
        progress=progress,
    )
    return classifier.freeze()
