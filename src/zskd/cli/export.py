"""`zskd export` and `zskd verify`: write networks and transfer sets for other programs, and check files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from cyclopts import Parameter

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.outputs import must_be_absent
from zskd.cli.telling import Json, Teller, print_line
from zskd.core.errors import ZskdError

if TYPE_CHECKING:
    from zskd.transfer_set.dataset import TransferSet

OfNetwork = Literal["onnx", "onnx-int8", "pt2", "torch", "hf"]
OfSet = Literal["parquet", "webdataset", "imagefolder", "mat", "png"]


@app.command(
    help_epilogue=examples(
        "zskd export student/ --to onnx --out student.onnx",
        "zskd export student/ --to onnx-int8 --set set/ --out student-int8.onnx",
        "zskd export student/ --to torch --out for-torch/",
        "zskd export set/ --to parquet --teacher teacher/ --out for-the-hub/",
        "zskd export set/ --to imagefolder --teacher teacher/ --out pictures/",
        "zskd export set/ --to mat --out DI-40.mat",
    )
)
def export(
    source: Path,
    /,
    *,
    to: OfNetwork | OfSet,
    out: Path,
    transfer_set: Annotated[Path | None, Parameter(name="--set")] = None,
    teacher: Path | None = None,
    model: str | None = None,
) -> None:
    """Write a student, a teacher or a transfer set for other programs.

    Args:
        source: Checkpoint folder of a network, or folder of a transfer set.
        to: Format. Of a network: an ONNX file, one with 8-bit integers, a torch.export archive, a folder that
            needs torch and safetensors alone, or one for the Hugging Face Hub. Of a set: a folder of Parquet
            files, of tar files of WebDataset, or of PNG files by class; or a MATLAB file.
        out: New file, or empty folder.
        transfer_set: Folder of a transfer set, to calibrate an int8 network on, or to compare others on.
        teacher: Checkpoint folder, to compute the logits of a set's 8-bit pictures.
        model: Factory to run, for a network in your own code.
    """
    from zskd.models.checkpoint import CARD
    from zskd.transfer_set.dataset import TransferSet
    from zskd.transfer_set.manifest import MANIFEST

    must_be_absent(out)
    of_network = to in get_args(OfNetwork)
    if not of_network and (source / MANIFEST).is_file():
        if transfer_set is not None:
            raise ZskdError(
                f"--set belongs to the export of a network, and {source} is a transfer set: leave it out"
            )
        _export_set(TransferSet(source), to, out, teacher, model)
    elif of_network and (source / CARD).is_file():
        if teacher is not None:
            raise ZskdError(
                f"--teacher belongs to the export of a set, and {source} is a network: leave it out"
            )
        given = None if transfer_set is None else TransferSet(transfer_set)
        _export_network(source, to, out, given, model)
    else:
        raise ZskdError(
            _wrong(source, is_set=(source / MANIFEST).is_file(), is_network=(source / CARD).is_file())
        )


def _wrong(source: Path, *, is_set: bool, is_network: bool) -> str:
    """Return the message for a folder that does not fit the format."""
    networks, sets = ", ".join(get_args(OfNetwork)), ", ".join(get_args(OfSet))
    if is_set:
        return f"{source} is a transfer set: export it with --to {sets}, or give the checkpoint of a network"
    if is_network:
        return f"{source} is a network: export it with --to {networks}, or give the folder of a transfer set"
    return (
        f"{source} is neither the checkpoint folder of a network nor the folder of a transfer set: "
        "give the folder with card.json, or with manifest.json"
    )


def _export_set(loaded: TransferSet, to: str, out: Path, teacher: Path | None, model: str | None) -> None:
    from zskd.models.checkpoint import load_checkpoint
    from zskd.teacher.opening import check_model
    from zskd.transfer_set.export.imagefolder import export_imagefolder
    from zskd.transfer_set.export.mat import export_mat
    from zskd.transfer_set.export.parquet import export_parquet
    from zskd.transfer_set.export.webdataset import export_webdataset

    if to == "mat":
        if teacher is not None or model is not None:
            raise ZskdError(
                "--teacher and --model compute the logits of 8-bit pictures, and a MATLAB file has pixels as "
                "they are: leave them out"
            )
        print_line(f"exported to {export_mat(loaded, out)}")
        return
    if teacher is None:
        raise ZskdError("the teacher must compute the logits of the 8-bit pictures: add --teacher FOLDER")
    check_model(model, teacher)
    classifier, _ = load_checkpoint(teacher, model=model)
    exporters = {
        "parquet": export_parquet,
        "webdataset": export_webdataset,
        "imagefolder": export_imagefolder,
        "png": export_imagefolder,  # its first name
    }
    print_line(f"exported to {exporters[to](classifier, loaded, out)}")


def _export_network(source: Path, to: str, out: Path, images: TransferSet | None, model: str | None) -> None:
    from zskd.core.tables import Table
    from zskd.export.check import check_pictures
    from zskd.export.folder import export_torch
    from zskd.export.hub import export_hf, plain_title
    from zskd.export.int8 import export_onnx_int8
    from zskd.export.onnx import export_onnx
    from zskd.export.pt2 import export_pt2
    from zskd.models.checkpoint import load_checkpoint
    from zskd.run.summary import checkpoint_results
    from zskd.teacher.opening import check_model

    tell = Teller(as_json=False)
    check_model(model, source)
    classifier, card = load_checkpoint(source, model=model)
    if to == "onnx-int8":
        if images is None:
            raise ZskdError(
                "an int8 network is calibrated on images: add --set FOLDER, the student's transfer set"
            )
        found = export_onnx_int8(classifier, images, out)
        tell.table(Table(*found.table()))
        for line in found.lines():
            tell.line(line)
    else:
        pictures = check_pictures(classifier, images)
        if to == "onnx":
            compared = export_onnx(classifier, out, images=pictures)
        elif to == "pt2":
            compared = export_pt2(classifier, out, images=pictures)
        elif to == "torch":
            compared = export_torch(classifier, out, title=plain_title(card.architecture), images=pictures)
        else:
            results = checkpoint_results(source, classifier.fingerprint())
            compared = export_hf(classifier, card, out, results=results, images=pictures)
        print_line(str(compared))
    print_line(f"exported to {out}")


@app.command(
    help_epilogue=examples(
        "zskd verify runs/digits",
    )
)
def verify(*folders: Path, json: Json = False) -> None:
    """Compare the hashes of transfer sets, checkpoints or whole runs with the recorded ones.

    Args:
        folders: Folders of transfer sets, checkpoints or runs.
        json: Print what was verified as JSON.
    """
    from zskd.run.verify import verified

    if not folders:
        raise ZskdError("name at least one folder")
    tell, whole = Teller(json), []
    for folder in folders:
        for one in verified(folder):
            tell.line(str(one))
            whole.append({"folder": one.folder, "kind": one.kind, "shards": one.shards})
    tell.document({"whole": whole})
