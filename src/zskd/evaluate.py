"""What is measured of a student: accuracy on labelled images, agreement with its teacher on any."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zskd.classifier import Classifier
from zskd.data import Split
from zskd.errors import ZskdError
from zskd.types import Images, Labels

_BATCH = 500


@dataclass(frozen=True)
class Share:
    """A percentage of n images with its 95 % Wilson interval."""

    percent: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.percent:.2f} % [{self.low:.2f}, {self.high:.2f}] of {self.n:,}"


def share(hits: int, n: int) -> Share:
    """Return hits/n as a percentage with its interval.

    Raises:
        ZskdError: n is 0.
    """
    if n == 0:
        raise ZskdError("there are no images to measure on")
    from scipy.stats import binomtest  # takes a while, and no worker needs it

    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return Share(100 * hits / n, 100 * interval.low, 100 * interval.high, n)


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


def check_classes(classifier: Classifier, names: tuple[str, ...]) -> None:
    """Refuse data whose classes are not the classifier's.

    Raises:
        ZskdError: another number of classes, or the same names in another order.
    """
    own = classifier.class_names
    if len(own) != len(names):
        raise ZskdError(f"the network has {len(own)} classes and the data {len(names)}: they do not fit")
    if own != names and sorted(own) == sorted(names):
        raise ZskdError(
            f"the network's classes are {', '.join(own)}, and the data has them in another order: "
            f"{', '.join(names)}"
        )


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
