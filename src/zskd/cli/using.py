"""The verbs for what has been made: measure it, use it, hand it on, check it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from zskd.cli import app, examples
from zskd.cli.output import say, say_estimate
from zskd.config import Data
from zskd.errors import ZskdError


@app.command(
    help_epilogue=examples(
        "zskd evaluate student/ --data.name mnist --data-dir data --teacher teacher/",
        "zskd evaluate student/ --teacher teacher/ --set held-out/",
    )
)
def evaluate(
    checkpoint: Path,
    /,
    *,
    teacher: Path | None = None,
    transfer_set: Annotated[Path | None, Parameter(name="--set")] = None,
    data: Data = Data(name="none"),  # noqa: B008
    out: Path | None = None,
    model: str | None = None,
    teacher_model: str | None = None,
    estimate: bool = True,
) -> None:
    """Measure a student: accuracy on test images, agreement with its teacher on any images.

    With a teacher, its agreement on real images is estimated too, which needs none.

    Args:
        checkpoint: Checkpoint folder.
        teacher: Checkpoint folder of its teacher.
        transfer_set: Set of images to measure the agreement on.
        data: Test images.
        out: JSON file to write as well.
        model: Factory to run, for a student of your own code.
        teacher_model: Factory to run, for a teacher of your own code; absent: the same.
        estimate: Estimate the agreement on real images.
    """
    import torch

    from zskd.checkpoint import load_checkpoint
    from zskd.data import load_data
    from zskd.evaluate import accuracy, accuracy_by_class, agreement, check_classes
    from zskd.files import write_json
    from zskd.pipeline import NOT_MEASURED
    from zskd.transfer_set import REAL, TransferSet

    student, card = load_checkpoint(checkpoint, model=model)
    master = load_checkpoint(teacher, model=teacher_model or model)[0] if teacher else None
    if transfer_set is not None and master is None:
        raise ZskdError("agreement on a set needs the teacher: add --teacher FOLDER")
    found: dict[str, object] = {}
    if data.name == "none":
        say(NOT_MEASURED)
    else:
        loaded = load_data(data, student.spec.shape)
        check_classes(student, loaded.class_names)
        test = loaded.test
        measured = accuracy(student, test)
        found["test_accuracy"] = asdict(measured)
        found["test_accuracy_by_class"] = accuracy_by_class(student, test)
        say(f"test accuracy  {measured}")
        if master is not None:
            agreed = agreement(student, master, test.images)
            found["test_agreement"] = asdict(agreed)
            say(f"agreement with the teacher on test images  {agreed}")
    if transfer_set is not None and master is not None:
        images = torch.cat([shard.images for shard in TransferSet(transfer_set)])
        agreed = agreement(student, master, images)
        found["set_agreement"] = asdict(agreed)
        say(f"agreement with the teacher on {transfer_set}  {agreed}")
    if master is not None and estimate:
        origin = card.get("origin", {})
        from_real = origin.get("how") == "trained" or origin.get("method") == REAL
        estimated = say_estimate(student.freeze(), master.freeze(), from_real)
        found["estimated_agreement"] = None if estimated is None else estimated.record()
    if out is not None:
        write_json(out, found)


@app.command(
    help_epilogue=examples(
        "zskd predict student/ three.png eight.png --top 2",
    )
)
def predict(checkpoint: Path, /, *pictures: Path, top: int = 3, model: str | None = None) -> None:
    """Print the most probable classes of pictures, resized to the network's input.

    Args:
        checkpoint: Checkpoint folder.
        pictures: PNG, JPEG, … files.
        top: How many classes to print.
        model: Factory to run, for a network of your own code.
    """
    import torch

    from zskd.checkpoint import load_checkpoint
    from zskd.data.folder import read_image

    if not pictures:
        raise ZskdError("name at least one picture")
    if top < 1:
        raise ZskdError(f"--top is {top}: it must be at least 1")
    classifier, _ = load_checkpoint(checkpoint, model=model)
    classifier.freeze()
    for path in pictures:
        image = torch.from_numpy(read_image(path, classifier.spec.shape)).unsqueeze(0)
        best = torch.softmax(classifier(image)[0], 0).topk(min(top, classifier.classes))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        answers = "  ".join(f"{classifier.class_names[k]} {value:.3f}" for k, value in pairs)
        say(f"{path}  {answers}")


@app.command(
    help_epilogue=examples(
        "zskd export set/ --to mat --out DI-40.mat",
        "zskd export set/ --to png --teacher teacher/ --out pictures/",
    )
)
def export(
    transfer_set: Path,
    /,
    *,
    to: Literal["mat", "png"],
    out: Path,
    teacher: Path | None = None,
    model: str | None = None,
) -> None:
    """Write a transfer set for other programs: the reproduction's MATLAB layout, or a tree of PNG files.

    Args:
        transfer_set: Folder of the set.
        to: Kind of export.
        out: File, or empty folder.
        teacher: Checkpoint folder, asked again about the 8-bit pictures.
        model: Factory to run, for a network of your own code.
    """
    from zskd.checkpoint import load_checkpoint
    from zskd.export import export_mat, export_png
    from zskd.transfer_set import TransferSet

    loaded = TransferSet(transfer_set)
    if to == "mat":
        say(f"exported to {export_mat(loaded, out)}")
        return
    if teacher is None:
        raise ZskdError("8-bit pictures carry the teacher's answers to themselves: add --teacher FOLDER")
    classifier, _ = load_checkpoint(teacher, model=model)
    say(f"exported to {export_png(loaded, classifier.freeze(), out)}")


@app.command(
    help_epilogue=examples(
        "zskd verify runs/digits",
    )
)
def verify(*folders: Path) -> None:
    """Hash transfer sets, checkpoints and whole runs again and compare with what was recorded.

    Args:
        folders: Of transfer sets, checkpoints or runs.
    """
    from zskd.verification import verify_folder

    if not folders:
        raise ZskdError("name at least one folder")
    for folder in folders:
        for line in verify_folder(folder):
            say(line)
