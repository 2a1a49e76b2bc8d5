"""Training a teacher on real images with their labels."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Generator, Tensor

from zskd.config.identity import plain
from zskd.config.training import FitConfig
from zskd.config.trust import code_hashes
from zskd.core.device import read_every, to_device
from zskd.core.files import sha256_json
from zskd.core.progress import Progress
from zskd.core.versions import versions
from zskd.data.datasets import Dataset
from zskd.models.class_names import check_classes
from zskd.models.classifier import Classifier
from zskd.models.modes import check_learns
from zskd.models.preparation import check_image_shape
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
        key: identifies this training in that file; absent: a hash of all that it is given.
        progress: receives every step.

    Returns:
        The classifier, frozen.

    Raises:
        ZskdError: classifier and data have different classes or shapes, all weights are frozen, or the loss
            diverges.
    """
    check_classes(classifier.class_names, data.class_names)
    check_image_shape(data.train.images, classifier.spec.shape)
    check_learns(classifier, "classifier")
    split, device = data.train, classifier.device

    def prepare(rows: Tensor, _numbers: Generator) -> Batch:
        return to_device(split.images[rows], device), to_device(split.labels[rows], device)

    if state is not None and not key:
        key = _key(classifier, data, config, seed)
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


def _key(classifier: Classifier, data: Dataset, config: FitConfig, seed: int) -> str:
    """Return a hash of what a saved state must have in common with this training to be resumed."""
    settings = plain(config)
    return sha256_json(
        {
            "classifier": classifier.fingerprint(),
            "data": data.fingerprint(),
            "config": settings,
            "code": code_hashes(settings),
            "seed": int(seed),
            "versions": versions(),
            "device": classifier.device.type,
            "rewrite": classifier.rewrite,
        }
    )
