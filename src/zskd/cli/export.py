"""`zskd export` and `zskd verify`: write transfer sets for other programs, and check files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.options import print_line
from zskd.cli.telling import Json, Teller
from zskd.core.errors import ZskdError


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
        to: Format: a MATLAB file, or a folder of PNG files.
        out: New file, or empty folder.
        teacher: Checkpoint folder, to compute the logits of the 8-bit pictures.
        model: Factory to run, for a network in your own code.
    """
    from zskd.models.checkpoint import load_checkpoint
    from zskd.transfer_set.dataset import TransferSet
    from zskd.transfer_set.export import export_mat, export_png

    loaded = TransferSet(transfer_set)
    if to == "mat":
        print_line(f"exported to {export_mat(loaded, out)}")
        return
    if teacher is None:
        raise ZskdError("the teacher must compute the logits of the 8-bit pictures: add --teacher FOLDER")
    classifier, _ = load_checkpoint(teacher, model=model)
    print_line(f"exported to {export_png(classifier, loaded, out)}")


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
