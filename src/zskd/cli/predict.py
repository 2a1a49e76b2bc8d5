"""`zskd predict`: classify pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.telling import PICTURES_AT_ONCE, Broken, Json, Teller
from zskd.config.checks import check_range
from zskd.core.errors import ZskdError, escaped


@app.command(
    help_epilogue=examples(
        "zskd predict student/ three.png eight.png --top 2",
        "zskd predict student.onnx pictures/ --json > predicted.json",
    )
)
def predict(
    checkpoint: Path, /, *paths: Path, top: int = 3, model: str | None = None, json: Json = False
) -> None:
    """Print the most probable classes of pictures, which are resized to the input size.

    A file that cannot be read, or whose outputs are no numbers, is told on standard error and left out; the
    exit code is then 1.

    Args:
        checkpoint: Checkpoint folder, or an ONNX file of zskd export, float32 or int8.
        paths: PNG, JPEG, … files, and folders of them.
        top: Number of classes to print.
        model: Factory to run, for a network in your own code.
        json: Print the probabilities as JSON.
    """
    import torch

    from zskd.core.memory import at_once
    from zskd.data.folder import read_pictures
    from zskd.models.opened import open_network
    from zskd.teacher.opening import check_model

    if not paths:
        raise ZskdError("name at least one picture or folder")
    check_range("--top", top, 1)
    check_model(model, checkpoint)
    network = open_network(checkpoint, model=model)
    tell, broken, predicted = Teller(json), Broken(), []
    files = _files(paths)
    batch = at_once(PICTURES_AT_ONCE, network.shape)
    for rows, images in read_pictures(files, network.shape, batch, broken.tell):
        most = torch.softmax(network.logits(images), 1).topk(min(top, len(network.class_names)))
        for row, classes, values in zip(rows, most.indices.tolist(), most.values.tolist(), strict=True):
            if math.isnan(values[0]):  # as of a network that divides by the deviation of one colour
                broken.tell(files[row], ZskdError(f"{files[row]}: an output of the network is not a number"))
                continue
            pairs = [(network.class_names[k], value) for k, value in zip(classes, values, strict=True)]
            likely = "  ".join(f"{name} {value:.3f}" for name, value in pairs)
            tell.line(f"{escaped(str(files[row]))}  {likely}")
            ranked = [{"name": name, "probability": value} for name, value in pairs]
            predicted.append({"file": files[row], "classes": ranked})
    tell.document({"pictures": predicted, "not_readable": broken.files})
    broken.end()


def _files(paths: Iterable[Path]) -> list[Path]:
    """Return the named files, and all pictures of the named folders, in the order of the names."""
    from zskd.data.folder import picture_files

    return [file for path in paths for file in (picture_files(path) if path.is_dir() else [path])]
