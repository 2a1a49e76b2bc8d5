"""Accuracy on labelled images, and agreement of student and teacher on any images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from zskd.core.errors import ZskdError
from zskd.core.types import Images, Labels, Logits, OfOneBatch
from zskd.data.datasets import Split
from zskd.evaluation.statistics import Share, share_of
from zskd.models.class_names import misplaced
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.many_images import logits_in_parts
from zskd.models.modes import frozen
from zskd.models.preparation import check_image_shape

_BATCH = 500
"""Images per forward pass, fewer of large ones."""
_OVERSHOOT = 0.5
"""Taken on both sides of [0, 1]: augmented pixels lie beyond it, and real ones beyond a narrower box."""
_Facts = tuple[tuple[str, ...], tuple[int, int, int]]


def predict(classifier: Classifier, images: Images) -> Labels:
    """Return the predicted class of each image: the largest logit.

    Args:
        classifier: run in evaluation mode; not changed.
        images: (N, C, H, W) in [0, 1], of the classifier's input size; on any device.

    Returns:
        Class indices (N,), 0 to K − 1, on the CPU.

    Raises:
        ZskdError: the images have another shape than the classifier's input, or pixels of another kind.
    """
    return logits_of(classifier, images).argmax(1)


def logits_of(classifier: Classifier, images: Images) -> Logits:
    """Return the logits of images (N, K) on the CPU.

    Args:
        classifier: run in evaluation mode; not changed.
        images: (N, C, H, W) in [0, 1], of the classifier's input size; on any device.

    Raises:
        ZskdError: the images have another shape than the classifier's input, or pixels of another kind.
    """
    images = checked_images(images, classifier.spec)
    with frozen(classifier):
        logits = logits_in_parts(classifier, images, _BATCH).cpu()
    if bool(torch.isnan(logits).any()):
        raise ZskdError("an output of the network is not a number: check its weights, mean and std")
    return logits


def checked_images(images: object, spec: InputSpec) -> Images:
    """Return images (N, C, H, W) in single precision.

    Args:
        images: what is given as images.
        spec: of the network that is to see them.

    Raises:
        ZskdError: they are no tensor of the shape of the spec, or their pixels are far from its box.
    """
    if not isinstance(images, Tensor):
        raise ZskdError(
            f"the images are a {type(images).__name__}: give a float tensor, as torch.from_numpy(x).float()"
        )
    check_image_shape(images, spec.shape)
    box = f"{spec.box[0]:g} to {spec.box[1]:g}"
    if not images.is_floating_point():
        raise ZskdError(f"the images are {images.dtype}: give float pixels from {box}")
    images = images.float()
    if images.numel():
        least, most = map(float, torch.aminmax(images))
        if not -_OVERSHOOT <= least <= most <= 1 + _OVERSHOOT:  # also for NaN
            raise ZskdError(
                f"the pixels are {least:g} to {most:g}, and the network takes {box}: give such, without mean "
                "and std, which the network applies"
            )
    return images


def checked_labels(labels: object, images: int, classes: int) -> Labels:
    """Return labels (N,) on the CPU, int64.

    Args:
        labels: what is given as the class of each image.
        images: their number N.
        classes: of the network, K.

    Raises:
        ZskdError: they are no tensor of N whole numbers from 0 to K − 1.
    """
    if (
        not isinstance(labels, Tensor)
        or labels.is_floating_point()
        or labels.shape != (images,)
        or (images and int(labels.min()) < 0)
    ):
        raise ZskdError(
            f"labels are 0 to {classes - 1}, one for each image, in a tensor of integers: give such"
        )
    if images and int(labels.max()) >= classes:
        raise ZskdError(
            f"labels are 0 to {classes - 1}, and the data has more classes than the network's {classes}: "
            "give the data set that the network was trained for"
        )
    return labels.cpu().long()


def accuracy(classifier: Classifier, split: Split) -> Share:
    """Return the share of images whose label the classifier predicts.

    Args:
        classifier: run in evaluation mode; not changed.
        split: images (N, C, H, W) in [0, 1] and their labels (N,).

    Returns:
        Percent, with its 95 % Wilson interval.

    Raises:
        ZskdError: there are no images, they do not fit as for `predict`, or there is not one label for each,
            which is one of the classes.
    """
    return accuracies(classifier, split)[0]


def accuracies(classifier: Classifier, split: Split) -> tuple[Share, dict[str, float]]:
    """Return `accuracy`, and the accuracy on the images of each class in percent, by class name.

    Every image goes through the network once; a class without an image is left out.
    """
    labels = checked_labels(split.labels, len(split.images), classifier.classes)
    correct = predict(classifier, split.images) == labels
    by_class = {
        name: 100 * float(correct[labels == k].float().mean())
        for k, name in enumerate(classifier.class_names)
        if bool((labels == k).any())
    }
    return share_of(int(correct.sum()), len(labels)), by_class


def check_alike(name: str, found: _Facts, student: _Facts) -> None:
    """Check that a network has the classes and the input shape of the student.

    Args:
        name: of the network.
        found: its class names and its input shape.
        student: likewise. Wholly other names are taken for the same classes.

    Raises:
        ZskdError: they are not.
    """
    (names, shape), (own_names, own_shape) = found, student
    advice = f"give a {name} with the student's classes and images"
    if len(names) != len(own_names):
        raise ZskdError(f"the {name} has {len(names)} classes and the student {len(own_names)}: {advice}")
    if (moved := misplaced(own_names, names)) is not None:
        raise ZskdError(f"the {name} has the student's class {moved} at another place: {advice}")
    if shape != own_shape:
        raise ZskdError(f"the {name} takes images of {shape} and the student of {own_shape}: {advice}")


def agreement(teacher: Classifier, student: Classifier, images: Images | Iterable[OfOneBatch]) -> Share:
    """Return the share of images for which teacher and student predict the same class.

    Args:
        teacher: run in evaluation mode; not changed.
        student: run in evaluation mode; not changed. It has the teacher's input shape and number of classes.
        images: (N, C, H, W) in [0, 1]; or parts of them, one after the other, that need not fit into memory
            together.

    Returns:
        Percent, with its 95 % Wilson interval.

    Raises:
        ZskdError: there are no images, they do not fit as for `predict`, or the networks have different
            numbers of classes.
    """
    if student.classes != teacher.classes:
        raise ZskdError(
            f"the student has {student.classes} classes and its teacher {teacher.classes}: give a student "
            "that was distilled from this teacher"
        )
    parts = [images] if isinstance(images, Tensor) else images
    same = [predict(teacher, part) == predict(student, part) for part in parts]
    return share_of(sum(int(one.sum()) for one in same), sum(map(len, same)))
