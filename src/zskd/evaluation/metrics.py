"""What is measured of a student: accuracy on labelled images, agreement with its teacher on any."""

from __future__ import annotations

import torch

from zskd.core.errors import ZskdError
from zskd.core.types import Images, Labels
from zskd.data.datasets import Split
from zskd.evaluation.statistics import Share, share
from zskd.models.classifier import Classifier

_BATCH = 500


@torch.no_grad()
def predict(classifier: Classifier, images: Images) -> Labels:
    """Return the class of each image (N,).

    Raises:
        ZskdError: images of another size than the classifier's.
    """
    classifier.eval()
    if tuple(images.shape[1:]) != classifier.spec.shape:
        raise ZskdError(
            f"the images are {tuple(images.shape[1:])}, and the network takes {classifier.spec.shape}"
        )
    device = classifier.device
    return torch.cat([classifier(batch.to(device)).argmax(1).cpu() for batch in torch.split(images, _BATCH)])


def accuracy(classifier: Classifier, split: Split) -> Share:
    """Return the share of images whose label the classifier gives.

    Raises:
        ZskdError: images of another size, or labels beyond its classes.
    """
    if len(split) and int(split.labels.max()) >= classifier.classes:
        raise ZskdError(f"the data has more classes than the network's {classifier.classes}")
    return share(int((predict(classifier, split.images) == split.labels).sum()), len(split))


def accuracy_by_class(classifier: Classifier, split: Split) -> dict[str, float]:
    """Return the percentage of each class's images that are recognised."""
    hit = predict(classifier, split.images) == split.labels
    return {
        name: 100 * float(hit[split.labels == k].float().mean())
        for k, name in enumerate(classifier.class_names)
        if bool((split.labels == k).any())
    }


def agreement(student: Classifier, teacher: Classifier, images: Images) -> Share:
    """Return the share of images for which student and teacher give the same class.

    Raises:
        ZskdError: images of another size, or networks of other numbers of classes.
    """
    if student.classes != teacher.classes:
        raise ZskdError(f"the student has {student.classes} classes and its teacher {teacher.classes}")
    same = predict(student, images) == predict(teacher, images)
    return share(int(same.sum()), len(images))
