"""`zskd evaluate`: measure a student."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.outputs import must_be_result
from zskd.cli.pairs import check_models, note_other_teacher
from zskd.cli.places import Place, local
from zskd.cli.telling import Json, Teller, print_error
from zskd.cli.typed import check_data, is_given, note_no_folder
from zskd.config.data import DataConfig
from zskd.core.errors import ZskdError

_MEASURED = (
    "test_accuracy",
    "test_accuracy_by_class",
    "test_agreement",
    "set_agreement",
    "estimated_agreement",
)
"""Keys of the results."""


@app.command(
    help_epilogue=examples(
        "zskd evaluate student/ --data.name mnist --data-dir data --teacher teacher/",
        "zskd evaluate student/ --teacher teacher/ --set held-out/",
    )
)
def evaluate(
    checkpoint: Place,
    /,
    *,
    teacher: Place | None = None,
    transfer_set: Annotated[Place | None, Parameter(name="--set")] = None,
    data: DataConfig = DataConfig(name="none"),  # noqa: B008
    out: Path | None = None,
    model: str | None = None,
    teacher_model: str | None = None,
    estimate: bool = True,
    json: Json = False,
) -> None:
    """Measure a student: accuracy on test images, agreement with its teacher on any images.

    With a teacher, also estimate the agreement on real images; this needs no images.

    Args:
        checkpoint: Checkpoint folder, or an address (s3://bucket/student); so are the next two.
        teacher: Checkpoint folder of its teacher.
        transfer_set: Folder of a transfer set for measuring the agreement.
        data: Test images.
        out: JSON file for the results.
        model: Factory to run, for a student in your own code.
        teacher_model: Factory to run, for a teacher in your own code; absent: the same.
        estimate: Estimate the agreement on real images.
        json: Print the results as JSON.
    """
    from zskd.core.files import write_json
    from zskd.data.datasets import folder_of_test, load_test
    from zskd.evaluation.metrics import accuracies, agreement
    from zskd.models.checkpoint import load_checkpoint
    from zskd.models.class_names import matched_by_order
    from zskd.run.measure import NOT_MEASURED
    from zskd.transfer_set.dataset import TransferSet

    if data.name != "none" and not is_given("data", "name"):  # another option of them made it the usual one
        raise ZskdError("--data-dir and --data.* are for a data set: name it, as in --data.name folder")
    check_data(data)
    if out is not None:
        must_be_result(out, _MEASURED)
    note_no_folder(data)
    if is_given("data", "validation") and data.validation:
        raise ZskdError("--data.validation divides training images, and test images are read: leave it out")
    of_student, of_teacher = local(checkpoint), local(teacher) if teacher else None
    check_models(model, teacher_model, of_student, teacher=of_teacher)
    student, card = load_checkpoint(of_student, model=model)
    teacher_network = None
    if of_teacher is not None:
        named = teacher_model or model
        teacher_network, _ = load_checkpoint(of_teacher, model=named, option="--teacher-model")
    if transfer_set is not None and teacher_network is None:
        raise ZskdError("agreement on a set needs the teacher: add --teacher FOLDER")
    if teacher_network is not None:
        note_other_teacher(card.origin.teacher_sha256, teacher_network, "this student was distilled from")
    found: dict[str, object] = {}
    tell = Teller(json)
    if data.name == "none":
        tell.line(NOT_MEASURED)
    else:
        loaded = load_test(data, student.spec.shape)
        if by_order := matched_by_order(student.class_names, loaded.class_names):
            print_error(f"zskd: note: {by_order}")
        if data.dir is not None and folder_of_test(data) == data.dir:
            print_error(f"zskd: note: a fifth of the images in {data.dir} is for tests; zskd check takes all")
        test = loaded.for_classes(student.class_names).test
        measured, by_class = accuracies(student, test)
        found |= {"test_accuracy": asdict(measured), "test_accuracy_by_class": by_class}
        tell.line(f"test accuracy  {measured}")
        if teacher_network is not None:
            agreed = agreement(teacher_network, student, test.images)
            found["test_agreement"] = asdict(agreed)
            tell.line(f"agreement with the teacher on test images  {agreed}")
    if transfer_set is not None and teacher_network is not None:
        made = TransferSet(local(transfer_set))
        note_other_teacher(made.manifest.teacher_sha256, teacher_network, f"{transfer_set} was made with")
        images = (shard.images for shard in made)
        agreed = agreement(teacher_network, student, images)
        found["set_agreement"] = asdict(agreed)
        own = made.fingerprint() == card.origin.transfer_set_sha256
        seen = ", which the student learned from" if own else ""
        tell.line(f"agreement with the teacher on {transfer_set}{seen}  {agreed}")
    if teacher_network is not None and estimate:
        estimated = tell.estimate(teacher_network, student, card.origin)
        found["estimated_agreement"] = None if estimated is None else estimated.record().to_json()
    if out is not None:
        write_json(out, found)
    tell.document(found)
