"""The architecture of a student by its name, a fresh student, and a copy of a student to train."""

from __future__ import annotations

from torch import nn

from zskd.config.registry import HALF
from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier
from zskd.models.factory import Architecture, build, describe, describe_half, fresh_weights


def describe_student(name: str, teacher: Classifier) -> Architecture:
    """Return the architecture of a student by its name.

    Args:
        name: `half`, a built-in name, or package.module:factory.
        teacher: gives the shape of the inputs and the number of classes.

    Raises:
        ZskdError: unknown name, or `half` of a teacher that is no plain chain of layers.
    """
    if name == HALF:
        return describe_half(teacher.module)
    return describe(name, shape=teacher.spec.shape, classes=teacher.classes)


def fresh_student(architecture: Architecture, teacher: Classifier, seed: int) -> Classifier:
    """Build an untrained student for the teacher's inputs and classes.

    Raises:
        ZskdError: it cannot be built, or has another number of classes than the teacher.
    """
    module = fresh_weights(lambda: build(architecture, run_code=True), seed)
    student = Classifier(module, spec=teacher.spec, copy=False)
    if student.classes != teacher.classes:
        raise ZskdError(
            f"the student has {student.classes} classes and its teacher {teacher.classes}: choose another "
            "--student"
        )
    return student


def copy_student(teacher: Classifier, student: nn.Module) -> Classifier:
    """Return a copy of a student's network as a classifier of the teacher's inputs and classes.

    Args:
        teacher: gives input specification, class names, device, and `rewrite`.
        student: maps normalised images (N, C, H, W) to logits (N, K); left as it is.

    Raises:
        ZskdError: it is a `Classifier` already, does not take the teacher's inputs, has another number of
            classes, or cannot be copied.
    """
    if isinstance(student, Classifier):
        raise ZskdError(
            "the student is a Classifier already, and would normalise images twice: give its network, "
            "student.module"
        )
    copied = Classifier(student, spec=teacher.spec, class_names=teacher.class_names).to(teacher.device)
    copied.rewrite = teacher.rewrite
    return copied
