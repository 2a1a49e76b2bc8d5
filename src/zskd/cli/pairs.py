"""A student and the teacher that it is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zskd.cli.telling import print_error
from zskd.core.errors import ZskdError

if TYPE_CHECKING:
    from zskd.models.classifier import Classifier
    from zskd.models.opened import Opened


def teacher_of_student(source: Path, own: str | None, of_student: str | None, student: Opened) -> Classifier:
    """Return the teacher that a student is compared with, frozen; a line tells if it is not its own.

    A source that is no checkpoint takes shape, mean, std, box and class names from the student.

    Args:
        source: a checkpoint folder, or another source.
        own: network or factory of the teacher, as typed for it.
        of_student: that of the student, which holds for a teacher that does not name its network.
        student: to be compared with it.

    Raises:
        ZskdError: as `open_teacher` does, or neither source nor student tells mean and std.
    """
    from zskd.models.checkpoint import CARD, NOT_KNOWN
    from zskd.teacher.named.source import parse_source
    from zskd.teacher.opening import open_teacher

    unnamed = parse_source(str(source)).kind == "path"
    facts: dict[str, Any] = {}
    if not (source / CARD).is_file():
        facts = {"shape": student.shape, "class_names": student.class_names}
        if student.classifier is not None:
            spec = student.classifier.spec
            facts |= {"mean": spec.mean, "std": spec.std, "box": spec.box}
    teacher, card = open_teacher(source, model=own or (of_student if unnamed else None), **facts)
    told = card.origin.facts or {}
    if facts and any(told.get(name, "").startswith(NOT_KNOWN) for name in ("mean", "std")):
        raise ZskdError(
            f"nobody tells which mean and std {source} takes, and an ONNX file does not, either: make a "
            "checkpoint of it first with zskd teacher import"
        )
    if student.card is not None:
        note_other_teacher(student.card.origin.teacher_sha256, teacher, "this student was distilled from")
    return teacher.freeze()


def note_other_teacher(of_it: str | None, teacher: Classifier, what: str) -> None:
    """Print a line where something was made of another teacher than the given one.

    Args:
        of_it: SHA-256 of the teacher that it was made of; None: not known.
        teacher: the given one.
        what: that was made, up to "from" or "with".
    """
    if of_it is not None and of_it != teacher.fingerprint():
        print_error(
            f"zskd: warning: {what} another teacher than the given one (other weights, mean, std or class "
            "names): what is measured says nothing of the pair"
        )
