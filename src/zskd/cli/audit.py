"""`zskd audit`: what a student, its teacher and its transfer set show of the training images."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.pairs import check_teacher_named, note_other_teacher, teacher_of_student
from zskd.cli.telling import PICTURES_AT_ONCE, Broken, Json, Teller, print_error, without_labels
from zskd.core.errors import ZskdError
from zskd.core.tables import WIDTH, Table

if TYPE_CHECKING:
    from torch import Tensor

    from zskd.evaluation.audit import Audit, Network, Shown
    from zskd.evaluation.membership import MembershipTest
    from zskd.evaluation.nearest import NearestImpressions
    from zskd.models.classifier import Classifier
    from zskd.models.opened import Opened

    _Group = tuple[list[Path], Tensor | None]

_CHANCE = (
    "AUC: how often a member scores higher than another; 0.5 is chance. Found: the members above the "
    "threshold that 1 % of the others exceed; 1 is chance. Brackets are 95 % intervals, so that one in "
    "twenty misses the truth; p is corrected for the number of tests."
)
_LABELS = {
    "given": "Labels are the class folders.",
    "teacher": "Without class folders, the label of an image is the class that the teacher predicts.",
    "student": "Without class folders, the label of an image is the class that the student predicts.",
}


@app.command(
    help_epilogue=examples(
        "zskd audit student/ --members train/ --others test/ --teacher teacher/ --set set/",
        "zskd audit student/ --members train/ --others test/ --reference another/ --json",
    )
)
def audit(
    student: Path,
    /,
    *,
    members: Path,
    others: Path,
    teacher: Path | None = None,
    transfer_set: Annotated[Path | None, Parameter(name="--set")] = None,
    reference: Path | None = None,
    model: str | None = None,
    teacher_model: str | None = None,
    json: Json = False,
) -> None:
    """Test whether a student, its teacher and its transfer set show who was trained on.

    Members are images that the teacher was trained on, others are images of the same source that it was not.
    Pictures in folders that are named after the classes are labelled by them. A file that cannot be read is
    told on standard error and left out; the exit code is then 1.

    Args:
        student: Checkpoint folder, or an ONNX file of zskd export.
        members: Folder of pictures that the teacher was trained on, at least 20.
        others: Folder of pictures that it was not trained on, at least 20; at least 100 for a threshold.
        teacher: Checkpoint folder of its teacher, or another source as for zskd inspect.
        transfer_set: Folder of the student's transfer set, to look for images that repeat members.
        reference: Checkpoint folder of a network of the same classes that none of the pictures trained.
        model: Factory to run, for a student or a reference in your own code.
        teacher_model: Factory to run, for a teacher in your own code; absent: the same.
        json: Print the results as JSON.
    """
    from zskd.evaluation.audit import audit_shown
    from zskd.models.opened import open_network

    check_teacher_named(teacher, teacher_model)
    network = open_network(student, model=model)
    of_teacher = teacher_of_student(teacher, teacher_model, model, network) if teacher else None
    networks = _networks(network, of_teacher, open_network(reference, model=model) if reference else None)
    groups = _groups(members, others, (of_teacher or network).class_names)
    near = _nearest(transfer_set, of_teacher, network.shape) if transfer_set else None
    tell, broken = Teller(json), Broken()
    of_members, of_others = (_shown(one, network.shape, networks, near, broken) for one in groups)
    found = audit_shown(of_members, of_others)
    _print(found, tell)
    tell.document(found.to_json() | {"sentences": found.sentences, "not_readable": broken.files})
    broken.end()


def _networks(student: Opened, teacher: Classifier | None, reference: Opened | None) -> dict[str, Network]:
    """Return what computes the logits of each network that is given, in the order of the table."""
    from zskd.evaluation.metrics import check_alike, logits_of

    own = student.class_names, student.shape
    networks: dict[str, Network] = {}
    if teacher is not None:
        check_alike("teacher", (teacher.class_names, teacher.spec.shape), own)
        networks["teacher"] = partial(logits_of, teacher)
    networks["student"] = student.logits
    if reference is not None:
        check_alike("reference", (reference.class_names, reference.shape), own)
        audited = [one.fingerprint() for one in (teacher, student.classifier) if one is not None]
        if reference.classifier is not None and reference.classifier.fingerprint() in audited:
            raise ZskdError(
                "the reference is a network that is audited: give one that none of the pictures trained, or "
                "leave --reference out"
            )
        networks["reference"] = reference.logits
    return networks


def _groups(members: Path, others: Path, names: tuple[str, ...]) -> tuple[_Group, _Group]:
    """Return the pictures of both folders, with their classes where both have folders of classes."""
    from zskd.data.pictures import labelled_files

    of_members, of_others = (labelled_files(folder, names) for folder in (members, others))
    for folder, (files, labels) in ((members, of_members), (others, of_others)):
        if labels is None and any(path.parent != folder for path in files):
            print_error(without_labels(folder, names))
    in_members, in_others = (_by_content(files) for files, _ in (of_members, of_others))
    if shared := [key for key in in_others if key in in_members]:
        one, other = in_members[shared[0]], in_others[shared[0]]
        raise ZskdError(
            f"{members} and {others} share {len(shared)} pictures, such as {one} and {other}: leave those "
            "out of one of them, as no test can tell them apart"
        )
    if (of_members[1] is None) != (of_others[1] is None):
        with_classes, without = (others, members) if of_members[1] is None else (members, others)
        raise ZskdError(
            f"{with_classes} has folders named after classes and {without} has none: give them in both or in "
            "neither"
        )
    return of_members, of_others


def _by_content(files: list[Path]) -> dict[str, Path]:
    """Return files by their SHA-256, but those that are empty or cannot be read, which are told of later."""
    from zskd.core.files import sha256_file

    found = dict[str, Path]()
    for path in files:
        with suppress(ZskdError, OSError):
            if path.stat().st_size:
                found.setdefault(sha256_file(path), path)
    return found


def _nearest(folder: Path, teacher: Classifier | None, shape: tuple[int, int, int]) -> NearestImpressions:
    from zskd.evaluation.nearest import NearestImpressions
    from zskd.transfer_set.dataset import TransferSet

    made = TransferSet(folder)
    if teacher is not None:
        note_other_teacher(made.manifest.teacher_sha256, teacher, f"{folder} was made with")
    return NearestImpressions(made, teacher, shape)


def _shown(
    group: _Group,
    shape: tuple[int, int, int],
    networks: dict[str, Network],
    near: NearestImpressions | None,
    broken: Broken,
) -> Shown:
    """Return the outputs for the readable pictures of a group, and their labels."""
    from zskd.core.memory import at_once
    from zskd.data.folder import read_pictures
    from zskd.evaluation.audit import show

    files, labels = group
    rows: list[int] = []

    def parts() -> Iterator[Tensor]:
        for places, images in read_pictures(files, shape, at_once(PICTURES_AT_ONCE, shape), broken.tell):
            rows.extend(places)
            yield images

    found = show(parts(), networks, near)
    return found if labels is None else replace(found, labels=labels[rows])


def _print(found: Audit, tell: Teller) -> None:
    """Print the results for people."""
    tell.table(_table(found.tests))
    tell.line("")
    sentences = [_CHANCE, _LABELS[found.labels], *found.sentences]
    if found.nearest is not None:
        of_member, of_other = found.nearest
        sentences.append(
            f"The nearest impression differs from a member by {of_member:.3f} of the range of pixels on "
            f"average, and from another by {of_other:.3f} (root mean square)."
        )
    for sentence in sentences:
        for line in textwrap.wrap(sentence, WIDTH):
            tell.line(line)


def _table(tests: tuple[MembershipTest, ...]) -> Table:
    """Return the table of all tests."""
    rows = [
        [
            f"{one.of}, {one.by}",
            f"{one.area.positive:,} + {one.area.negative:,}",
            str(one.area),
            "–" if one.found is None else one.found.cell,
        ]
        for one in tests
    ]
    return Table(["test", "members + others", "AUC", "found, %"], rows)
