"""What is measured of a student: accuracy on labelled images, agreement with its teacher on any."""

from __future__ import annotations

import torch

from zskd.core.errors import ZskdError
from zskd.core.types import Images, Labels
from zskd.data.datasets import Split
from zskd.evaluation.statistics import Share, share_of
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen

_BATCH = 500
"""Images that go through a network at once."""


def predict(classifier: Classifier, images: Images) -> Labels:
    """Return the class of each image.

    Args:
        classifier: asked in evaluation mode; left as it is.
        images: (N, C, H, W) in [0, 1], of the classifier's input size; on any device.

    Returns:
        Numbers of classes (N,), 0 to K − 1, in the processor's memory.

    Raises:
        ZskdError: images of another size than the classifier's.
    """
    if tuple(images.shape[1:]) != classifier.spec.shape:
        raise ZskdError(
            f"the images are {tuple(images.shape[1:])}, and the network takes {classifier.spec.shape}"
        )
    device = classifier.device
    with frozen(classifier), torch.no_grad():
        parts = [classifier(batch.to(device)).argmax(1).cpu() for batch in torch.split(images, _BATCH)]
    return torch.cat(parts)


def accuracy(classifier: Classifier, split: Split) -> Share:
    """Return the share of images whose label the classifier gives.

    Args:
        classifier: asked in evaluation mode; left as it is.
        split: images (N, C, H, W) in [0, 1] and their labels (N,).

    Returns:
        Percent, with its 95 % Wilson interval.

    Raises:
        ZskdError: no images, images of another size, or labels beyond the classifier's classes.
    """
    if len(split) and int(split.labels.max()) >= classifier.classes:
        raise ZskdError(f"the data has more classes than the network's {classifier.classes}")
    return share_of(int((predict(classifier, split.images) == split.labels).sum()), len(split))


def accuracy_by_class(classifier: Classifier, split: Split) -> dict[str, float]:
    """Return the percentage of each class's images that are recognised, by the names of the classes.

    Args:
        classifier: asked in evaluation mode; left as it is.
        split: images (N, C, H, W) in [0, 1] and their labels (N,); classes without an image are left out.

    Raises:
        ZskdError: images of another size than the classifier's.
    """
    hit = predict(classifier, split.images) == split.labels
    return {
        name: 100 * float(hit[split.labels == k].float().mean())
        for k, name in enumerate(classifier.class_names)
        if bool((split.labels == k).any())
    }


def agreement(teacher: Classifier, student: Classifier, images: Images) -> Share:
    """Return the share of images for which teacher and student give the same class.

    Args:
        teacher: asked in evaluation mode; left as it is.
        student: of the teacher's input size and classes; likewise.
        images: (N, C, H, W) in [0, 1].

    Returns:
        Percent, with its 95 % Wilson interval.

    Raises:
        ZskdError: no images, images of another size, or networks of other numbers of classes.
    """
    if student.classes != teacher.classes:
        raise ZskdError(f"the student has {student.classes} classes and its teacher {teacher.classes}")
    same = predict(teacher, images) == predict(student, images)
    return share_of(int(same.sum()), len(images))
