"""A student and the teacher that it is compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zskd.cli.telling import print_error
from zskd.core.errors import ZskdError

if TYPE_CHECKING:
    from zskd.models.classifier import Classifier
    from zskd.models.opened import Opened


def check_models(model: str | None, teacher_model: str | None, *students: Path, teacher: Path | None) -> None:
    """Check the networks that are named for students and a teacher.

    Args:
        model: named for the students, and for the teacher where `teacher_model` is absent.
        teacher_model: named for the teacher alone.
        students: checkpoint folders or ONNX files.
        teacher: a checkpoint folder, or another source.

    Raises:
        ZskdError: as `check_model` does, or there is no teacher that one is named for.
    """
    from zskd.teacher.opening import check_model

    if teacher is None and teacher_model is not None:
        raise ZskdError("--teacher-model is the code of a teacher: add --teacher FOLDER, or leave it out")
    if teacher is None:
        check_model(model, *students)
    elif teacher_model is None:
        check_model(model, *students, teacher)
    else:
        check_model(model, *students)
        check_model(teacher_model, teacher, option="--teacher-model")


def teacher_of_student(source: Path, own: str | None, of_student: str | None, student: Opened) -> Classifier:
    """Return the teacher that a student is compared with, frozen.

    A line tells of a checkpoint that is not the student's own teacher. Another source takes shape, mean, std
    and class names from the student, where it does not tell them.

    Args:
        source: a checkpoint folder, or another source.
        own: network or factory of the teacher, as typed for it.
        of_student: that of the student, which holds for a teacher that does not name its network.
        student: to be compared with it.

    Raises:
        ZskdError: as `open_teacher` does, or neither source nor student tells mean and std.
    """
    from zskd.models.checkpoint import CARD, NOT_KNOWN, load_checkpoint
    from zskd.teacher.named.facts import Fact, Facts
    from zskd.teacher.named.source import is_there, parse_source
    from zskd.teacher.opening import open_teacher

    of_path = parse_source(str(source)).kind == "path"
    model = own or (of_student if of_path else None)
    of_it = student.card.origin.teacher_sha256 if student.card else None
    if is_there(source / CARD):
        teacher = load_checkpoint(source, model=model, option="--teacher-model")[0]
        note_other_teacher(of_it, teacher, "this student was distilled from")
        return teacher.freeze()
    told = "that of its student"
    otherwise = Facts(shape=Fact(student.shape, told), class_names=Fact(student.class_names, told))
    spec = student.classifier.spec if student.classifier else None
    if spec is not None:
        otherwise = replace(otherwise, mean=Fact(spec.mean, told), std=Fact(spec.std, told))
    teacher, card = open_teacher(source, model=model, otherwise=otherwise)
    facts = card.origin.facts or {}
    if any(facts.get(name, "").startswith(NOT_KNOWN) for name in ("mean", "std")):
        raise ZskdError(
            f"nobody tells which mean and std {source} takes, and an ONNX file does not, either: make a "
            "checkpoint of it first with zskd teacher import"
        )
    if spec is None or of_it in (None, teacher.fingerprint()):
        return teacher.freeze()
    # the run may have had other values than those that the source tells
    try:
        given, _ = open_teacher(
            source,
            model=model,
            shape=spec.shape,
            mean=spec.mean,
            std=spec.std,
            box=spec.box,
            class_names=student.class_names,
        )
    except ZskdError:
        given = teacher
    if given.fingerprint() == of_it:
        return given.freeze()
    print_error(
        f"zskd: warning: {source} cannot be recognised as the teacher that this student was distilled from "
        "(its weights, code, mean, std or class names differ)"
    )
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
