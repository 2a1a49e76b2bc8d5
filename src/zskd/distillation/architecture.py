"""The architecture of a student by its name, and a student with fresh weights."""

from __future__ import annotations

from zskd.config.registry import HALF
from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier
from zskd.models.factory import Architecture, build, describe, describe_half, fresh_weights


def describe_student(name: str, teacher: Classifier) -> Architecture:
    """Return the architecture of a student by its name: `half`, built-in, or a factory."""
    if name == HALF:
        return describe_half(teacher.module)
    return describe(name, shape=teacher.spec.shape, classes=teacher.classes)


def fresh_student(architecture: Architecture, teacher: Classifier, seed: int) -> Classifier:
    """Build an untrained student for the teacher's inputs and classes.

    Raises:
        ZskdError: it has another number of classes than the teacher.
    """
    module = fresh_weights(lambda: build(architecture, run_code=True), seed)
    student = Classifier(module, spec=teacher.spec)
    if student.classes != teacher.classes:
        raise ZskdError(f"the student has {student.classes} classes and its teacher {teacher.classes}")
    return student
