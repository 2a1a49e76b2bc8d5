"""The architecture of a student by its name, a fresh student, and a copy of a student to train."""

from __future__ import annotations

from functools import lru_cache

from torch import nn

from zskd.config.registry import HALF, STUDENTS
from zskd.config.sizes import Share, read_size
from zskd.core.errors import ZskdError
from zskd.distillation.sizes import is_size, resolve_size
from zskd.models.classifier import Classifier
from zskd.models.factory import (
    Architecture,
    Narrowed,
    build,
    describe,
    describe_half,
    fresh_weights,
    innermost,
)
from zskd.models.families import fallback
from zskd.models.libraries.onnx import ConvertedOnnx, OnnxNetwork
from zskd.models.modes import check_learns, let_learn
from zskd.models.narrow.changes import apply_changes, initialise_all
from zskd.models.narrow.copies import copy_teacher, read_as
from zskd.models.narrow.plan import CannotCut
from zskd.models.preparation import copied


def describe_student(name: str, teacher: Classifier) -> Architecture:
    """Return the architecture of a student by its name.

    Args:
        name: `half`, a size such as `narrow:0.5` or `budget:200k`, a built-in name, `timm:NAME`,
            `torchvision:NAME`, or package.module:factory.
        teacher: gives the shape of the inputs and the number of classes; for a size it is what a copy is made
            of, and gives the kind of a named network. Such a network of the same size stands for a copy where
            no channels can be cut.

    Raises:
        ZskdError: unknown name, `half` of a teacher that is no plain chain of layers, or no network of this
            kind is so small.
    """
    name = resolve_size(name, teacher)
    if name == HALF:
        return describe_half(teacher.module)
    if is_size(name):
        copy, share = _copy_by_name(name, teacher)
        if isinstance(copy, Narrowed):
            return copy
        try:
            name = fallback(teacher, share)
        except ZskdError as error:
            raise ZskdError(f"{copy}; {error}: give --student package.module:factory") from error
    return describe(name, shape=teacher.spec.shape, classes=teacher.classes)


def why_no_copy(name: str, teacher: Classifier) -> str | None:
    """Return why no copy of the teacher can be cut, so that a named network stands for it; else None.

    Args:
        name: of a student.
        teacher: left as it is.

    Raises:
        ZskdError: as for `describe_student`.
    """
    name = resolve_size(name, teacher)
    if not is_size(name):
        return None
    copy, _ = _copy_by_name(name, teacher)
    return None if isinstance(copy, Narrowed) else str(copy)


def _copy_by_name(name: str, teacher: Classifier) -> tuple[Narrowed | CannotCut, float]:
    """Return a copy of the teacher, or why there is none, and the share of the teacher that it should be."""
    size = read_size(name)
    assert isinstance(size, Share), "a budget is a named network by now"
    return _describe_copy(_Teacher(teacher), size), size.share


class _Teacher:
    """A teacher that is equal to another with the same weights and input."""

    def __init__(self, network: Classifier) -> None:
        self.network = network
        self._key = network.fingerprint(), network.architecture

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Teacher) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key[0])


@lru_cache(maxsize=4)
def _describe_copy(teacher: _Teacher, size: Share) -> Narrowed | CannotCut:
    """Return the architecture of a copy, or why none can be cut; a run asks for it several times."""
    try:
        architecture = copy_teacher(teacher.network, size).architecture
    except CannotCut as error:
        return error
    if architecture is None:
        raise ZskdError(
            f"how the teacher's network is built is not known, so no card can describe {size.name}: open the "
            "teacher with open_teacher, or give zskd.narrow(teacher) to distill as the student"
        )
    return architecture


def fresh_student(architecture: Architecture, teacher: Classifier, seed: int) -> Classifier:
    """Build an untrained student for the teacher's inputs and classes.

    Raises:
        ZskdError: it cannot be built, has another number of classes than the teacher, or no weight can learn.
    """
    module = fresh_weights(lambda: _build(architecture, teacher), seed)
    reading = {"class_names": teacher.class_names} | read_as(teacher, module)
    try:
        student = Classifier(module, spec=teacher.spec, copy=False, **reading)
    except ZskdError:
        own = Classifier(module, spec=teacher.spec, copy=False).classes
        if own == teacher.classes:
            raise
        raise ZskdError(
            f"the student has {own} classes and its teacher {teacher.classes}: choose another --student"
        ) from None
    check_learns(module, "student")
    student.architecture = architecture
    return student


def student(name: str, *, like: Classifier, seed: int = 0) -> Classifier:
    """Build an untrained student for a teacher's inputs and classes.

    Args:
        name: as for `--student`: "half", "narrow:0.5", "resnet8", "timm:resnet18", "package.module:factory".
        like: the teacher; left as it is.
        seed: of the random weights, at least 0.

    Raises:
        ZskdError: unknown name, or no such student of this teacher.
    """
    STUDENTS.check(name, "the student")
    return fresh_student(describe_student(name, like), like, seed)


def _build(architecture: Architecture, teacher: Classifier) -> nn.Module:
    """Build a student; a copy of a network from an ONNX file is made of the teacher, which holds the file."""
    onnx = isinstance(innermost(architecture), OnnxNetwork) and isinstance(teacher.module, ConvertedOnnx)
    if not isinstance(architecture, Narrowed) or not onnx:
        return build(architecture, run_code=True)
    return let_learn(initialise_all(apply_changes(copied(teacher.module), architecture.changes)))


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
    reading = {"class_names": teacher.class_names} | read_as(teacher, student)
    copied = Classifier(student, spec=teacher.spec, **reading).to(teacher.device)
    copied.rewrite = teacher.rewrite
    return copied
