"""What both networks do on real test images, where there are some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zskd.core.memory import at_once
from zskd.core.types import Images, Labels
from zskd.data.datasets import Split
from zskd.evaluation.check import check_answers
from zskd.evaluation.statistics import Share
from zskd.models.classifier import Classifier
from zskd.models.many_images import logits_in_parts
from zskd.models.modes import frozen
from zskd.report.pictures import data_uri
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.first import first_of_classes

_BATCH = 500
_BINS = 10
"""Of confidence, in the reliability diagram."""
_BESIDE = 4
"""Images of each class and kind that stand beside each other."""
_SHOWN_CLASSES = 10
_POINTS = 250
"""Images of each kind in the feature space."""


@dataclass(frozen=True)
class Recall:
    """Share of the images of a class that are recognised."""

    name: str
    teacher: Share
    student: Share


@dataclass(frozen=True)
class Bin:
    """Images of similar confidence."""

    confidence: float
    """Their mean, 0 to 1."""
    accuracy: float
    n: int


@dataclass(frozen=True)
class Calibration:
    """How well confidence tells accuracy."""

    bins: tuple[Bin, ...]
    error: float
    """Expected calibration error in points: Σ n_b/n · |confidence − accuracy| (Guo et al. 2017, eq. 3)."""


@dataclass(frozen=True)
class Beside:
    """Impressions and real images of one class."""

    name: str
    impressions: tuple[str, ...]
    real: tuple[str, ...]


@dataclass(frozen=True)
class Spot:
    """One image in the plane of the two largest principal components of the teacher's features."""

    x: float
    y: float
    class_number: int
    real: bool


@dataclass(frozen=True)
class Behaviour:
    """Everything that needs real images."""

    n: int
    agreement: Share
    confusion: tuple[tuple[int, ...], ...]
    """Images by the class of the teacher (rows) and of the student (columns)."""
    recalls: tuple[Recall, ...]
    teacher: Calibration
    student: Calibration
    beside: tuple[Beside, ...]
    spots: tuple[Spot, ...]
    """Empty where the teacher has no features."""
    explained: float
    """Percent of the variance that the two components explain."""


def measure_behaviour(
    teacher: Classifier, student: Classifier, test: Split, impressions: TransferSet | None
) -> Behaviour:
    """Let both networks answer on test images.

    Args:
        teacher: not changed.
        student: likewise.
        test: real images with labels.
        impressions: of the student's training; None where a generator made them.
    """
    with frozen(teacher), frozen(student):
        of_teacher, of_student = (
            logits_in_parts(one, test.images, _BATCH).cpu() for one in (teacher, student)
        )
        spots, explained = _spots(teacher, test, impressions)
    checked = check_answers(of_teacher, of_student, teacher.class_names, test.labels)
    assert checked.teacher is not None
    assert checked.student is not None
    says, answers = of_teacher.argmax(1), of_student.argmax(1)
    count, names = teacher.classes, teacher.class_names
    confusion = torch.bincount(says * count + answers, minlength=count * count).view(count, count)
    return Behaviour(
        n=len(test),
        agreement=checked.agreement,
        confusion=tuple(map(tuple, confusion.tolist())),
        recalls=tuple(
            Recall(name, of, checked.student.recall[name]) for name, of in checked.teacher.recall.items()
        ),
        teacher=measure_calibration(of_teacher.softmax(1), test.labels),
        student=measure_calibration(of_student.softmax(1), test.labels),
        beside=() if impressions is None else tuple(_beside(names, test, impressions)),
        spots=spots,
        explained=explained,
    )


def measure_calibration(probabilities: Tensor, labels: Labels) -> Calibration:
    """Return the reliability of the predictions, in ten bins of equal width.

    Args:
        probabilities: (N, K).
        labels: the true classes (N,).
    """
    confidence, predicted = probabilities.double().max(1)
    right = (predicted == labels).double()
    # a confidence of exactly 1 belongs to the last bin
    number = (confidence * _BINS).long().clamp(max=_BINS - 1)
    bins = []
    for k in range(_BINS):
        here = number == k
        if bool(here.any()):
            mean, hits = float(confidence[here].mean()), float(right[here].mean())
            bins.append(Bin(mean, hits, int(here.sum())))
    error = sum(one.n * abs(one.confidence - one.accuracy) for one in bins) / len(labels)
    return Calibration(tuple(bins), 100 * error)


def _beside(names: Sequence[str], test: Split, impressions: TransferSet) -> list[Beside]:
    found = []
    for k, name in enumerate(names[:_SHOWN_CLASSES]):
        made = impressions.images(first_of_classes(impressions, _BESIDE, most=_BESIDE, only=k))
        real = test.images[(test.labels == k).nonzero()[:_BESIDE, 0]]
        found.append(Beside(name, *(tuple(map(data_uri, pictures)) for pictures in (made, real))))
    return found


def _spots(
    teacher: Classifier, test: Split, impressions: TransferSet | None
) -> tuple[tuple[Spot, ...], float]:
    """Return real images and impressions in the plane of both kinds' principal components."""
    if impressions is None or isinstance(teacher.find_head(), Exception):
        return (), 0.0
    from sklearn.decomposition import PCA

    rows = torch.linspace(0, len(impressions) - 1, min(_POINTS, len(impressions))).long()
    numbers = torch.linspace(0, len(test) - 1, min(_POINTS, len(test))).long()
    features = np.concatenate(
        [_features(teacher, one) for one in (impressions.images(rows), test.images[numbers])]
    )
    if features.shape[1] < 2:  # there is no plane
        return (), 0.0
    plane = PCA(2, svd_solver="full").fit(features)
    places = plane.transform(features)
    places = places / np.abs(places).max(0).clip(min=np.finfo(places.dtype).tiny)
    classes = torch.cat([impressions.labels[rows], test.labels[numbers]]).tolist()
    spots = (
        Spot(round(float(x), 3), round(float(y), 3), k, place >= len(rows))
        for place, ((x, y), k) in enumerate(zip(places, classes, strict=True))
    )
    return tuple(spots), 100 * float(plane.explained_variance_ratio_.sum())


def _features(teacher: Classifier, images: Images) -> np.ndarray:
    size = at_once(_BATCH, images.shape)
    parts = (teacher.features(part.to(teacher.device)) for part in torch.split(images, size))
    with torch.no_grad():
        return torch.cat([part.cpu() for part in parts]).double().numpy()
