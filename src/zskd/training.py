"""Training a teacher on real images with their labels."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from zskd.classifier import Classifier, InputSpec
from zskd.config import Teacher
from zskd.data import Dataset
from zskd.errors import ZskdError
from zskd.fitting import fit, fresh_weights
from zskd.models import Architecture, build
from zskd.progress import Progress


def train_teacher(
    data: Dataset,
    architecture: Architecture,
    spec: InputSpec,
    config: Teacher,
    *,
    seed: int,
    state: Path | None = None,
    key: str = "",
    progress: Progress | None = None,
) -> Classifier:
    """Train a classifier with cross-entropy; the weights of the last step are kept, none are chosen.

    Args:
        data: its training split alone is used.
        architecture: as `models.describe` returns it.
        spec: the classifier's input.
        config: schedule, head and names.
        seed: of weights, order and dropout.
        state: file to resume from.
        key: identifies this training in that file.
        progress: told of every step.

    Raises:
        ZskdError: the network has another number of classes than the data, or the loss diverges.
    """
    module = fresh_weights(lambda: build(architecture, run_code=True), seed)
    names = config.class_names or data.class_names
    classifier = Classifier(module, spec=spec, class_names=names, head=config.head)
    classes = len(data.class_names)
    if classifier.classes != classes:
        raise ZskdError(f"the network has {classifier.classes} classes and the data {classes}")
    split = data.train

    def loss(_module: nn.Module, rows: Tensor, _numbers: Generator) -> Tensor:
        return F.cross_entropy(classifier(split.images[rows]), split.labels[rows])

    fit(
        module,
        loss,
        config,
        images=len(split),
        seed=seed,
        section="teacher",
        state=state,
        key=key,
        progress=progress,
    )
    return classifier.freeze()
