"""`zskd check`: a student beside its teacher on pictures of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.pairs import check_models, teacher_of_student
from zskd.cli.telling import PICTURES_AT_ONCE, Broken, Json, Teller, print_error, without_labels
from zskd.core.errors import ZskdError

if TYPE_CHECKING:
    from torch import Tensor

    from zskd.core.tables import Table
    from zskd.evaluation.agreement import EstimateRecord
    from zskd.evaluation.check import Check, Labelled
    from zskd.models.classifier import Classifier
    from zskd.models.opened import Opened

_INTERVALS = (
    "Brackets are 95 % intervals, for shares the exact ones of Clopper and Pearson. They hold for pictures",
    "that were chosen independently: several pictures of one patient count as fewer.",
)


@app.command(
    help_epilogue=examples(
        "zskd check student/ --teacher teacher/ pictures/",
        "zskd check runs/mine/students/zskd --teacher teacher/ pictures/ --positive melanoma",
    )
)
def check(
    student: Path,
    folder: Path,
    /,
    *,
    teacher: Path,
    positive: str | None = None,
    model: str | None = None,
    teacher_model: str | None = None,
    estimate: bool = True,
    json: Json = False,
) -> None:
    """Compare a student with its teacher on some tens of your own pictures, labelled or not.

    Pictures in folders that are named after the classes are labelled by them. A file that cannot be read is
    told on standard error and left out; the exit code is then 1.

    Args:
        student: Checkpoint folder, or an ONNX file of zskd export, float32 or int8.
        folder: Folder of the pictures.
        teacher: Checkpoint folder of its teacher, or another source as for zskd inspect.
        positive: Name of the positive one of two classes; absent: the second.
        model: Factory to run, for a student in your own code.
        teacher_model: Factory to run, for a teacher in your own code; absent: the same.
        estimate: Judge the estimate without data: that of the student's run, or else a new one.
        json: Print the results as JSON.
    """
    from zskd.evaluation.check import check_answers
    from zskd.evaluation.metrics import check_alike
    from zskd.models.opened import open_network

    check_models(model, teacher_model, student, teacher=teacher)
    network = open_network(student, model=model)
    of_teacher = teacher_of_student(teacher, teacher_model, model, network)
    own = network.class_names, network.shape
    check_alike("teacher", (of_teacher.class_names, of_teacher.spec.shape), own)
    files, labels = _labelled_files(folder, of_teacher.class_names)
    tell, broken = Teller(json), Broken()
    rows, asked, answered = _answers(network, of_teacher, files, broken)
    if not rows:
        raise ZskdError(f"{folder} holds no picture that can be used: give a folder with some")
    found = check_answers(
        asked,
        answered,
        of_teacher.class_names,
        None if labels is None else labels[rows],
        positive=positive,
        estimate=_estimate(student, network, of_teacher) if estimate else None,
    )
    _print(found, tell)
    tell.document(found.to_json() | {"sentence": found.sentence, "not_readable": broken.files})
    broken.end()


def _labelled_files(folder: Path, names: tuple[str, ...]) -> tuple[list[Path], Tensor | None]:
    """Return the pictures of a folder, and their classes where folders are named after any."""
    from zskd.data.pictures import labelled_files

    files, labels = labelled_files(folder, names)
    if labels is None:
        print_error(without_labels(folder, names))
    return files, labels


def _answers(
    student: Opened, teacher: Classifier, files: list[Path], broken: Broken
) -> tuple[list[int], Tensor, Tensor]:
    """Return the places of the files that can be read and answered, and both networks' logits for them."""
    import torch

    from zskd.core.memory import at_once
    from zskd.data.folder import read_pictures
    from zskd.evaluation.metrics import logits_of

    shape = teacher.spec.shape
    rows: list[int] = []
    of_teacher: list[Tensor] = []
    of_student: list[Tensor] = []

    def ask(places: list[int], images: Tensor) -> None:
        try:
            answers = logits_of(teacher, images), student.logits(images)
            if not all(bool(torch.isfinite(one).all()) for one in answers):
                raise ZskdError("an output of a network is not finite")
        except ZskdError as error:
            if len(places) == 1:
                broken.tell(files[places[0]], ZskdError(f"{files[places[0]]}: {error}"))
            else:  # one of them, perhaps, as where a network divides by the deviation of one colour
                for number, place in enumerate(places):
                    ask([place], images[number : number + 1])
            return
        rows.extend(places)
        of_teacher.append(answers[0])
        of_student.append(answers[1])

    for places, images in read_pictures(files, shape, at_once(PICTURES_AT_ONCE, shape), broken.tell):
        ask(places, images)
    none = [torch.empty(0, len(student.class_names))]
    return rows, torch.cat(of_teacher or none), torch.cat(of_student or none)


def _estimate(folder: Path, student: Opened, teacher: Classifier) -> EstimateRecord | None:
    """Return the estimate of the student's run, or a new one; None where none can be made."""
    from zskd.evaluation.agreement import estimate_agreement, not_estimated
    from zskd.evaluation.probes import make_probes
    from zskd.run.recorded import recorded_estimate

    if student.card is not None and not_estimated(teacher, student.card.origin):
        return None
    own = None if student.classifier is None else student.classifier.fingerprint()
    recorded = recorded_estimate(folder, sha256=own, teacher_sha256=teacher.fingerprint())
    if recorded is not None or student.classifier is None or student.card is None:
        return recorded
    probes = make_probes(teacher, count=student.card.origin.transfer_set_images, workers=0)
    return estimate_agreement(teacher, student.classifier, probes).record()


def _print(found: Check, tell: Teller) -> None:
    """Print the results for people."""
    tell.line(f"agreement of student and teacher  {found.agreement}")
    if found.teacher is not None and found.student is not None:
        tell.line("")
        tell.table(_table(found.teacher, found.student))
        tell.line("")
    for line in _INTERVALS:
        tell.line(line)
    if found.sentence is not None:
        tell.line(found.sentence)


def _table(teacher: Labelled, student: Labelled) -> Table:
    """Return the table of the measures of both networks."""
    from zskd.core.tables import Table

    rows = [["accuracy, %", str(teacher.accuracy.n), *(one.accuracy.cell for one in (teacher, student))]]
    for name, recall in teacher.recall.items():
        rows.append([f"recall of {name}, %", str(recall.n), recall.cell, student.recall[name].cell])
    two = teacher.two_classes, student.two_classes
    if two[0] is not None and two[1] is not None:
        for measure in ("sensitivity", "specificity"):
            shares = [getattr(one, measure) for one in two]
            if shares[0] is not None:
                rows.append([f"{measure}, %", str(shares[0].n), *(one.cell for one in shares)])
        if two[0].area is not None and two[1].area is not None:
            pictures = two[0].area.positive + two[0].area.negative
            rows.append(["area under ROC (AUC)", str(pictures), str(two[0].area), str(two[1].area)])
    title = f"positive class: {two[0].positive}" if two[0] is not None else ""
    return Table(["measure", "pictures", "teacher", "student"], rows, title)
