"""`zskd predict`: classify pictures."""

from __future__ import annotations

from pathlib import Path

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.options import print_line
from zskd.core.errors import ZskdError


@app.command(
    help_epilogue=examples(
        "zskd predict student/ three.png eight.png --top 2",
    )
)
def predict(checkpoint: Path, /, *pictures: Path, top: int = 3, model: str | None = None) -> None:
    """Print the most probable classes of pictures, which are resized to the input size.

    Args:
        checkpoint: Checkpoint folder.
        pictures: PNG, JPEG, … files.
        top: Number of classes to print.
        model: Factory to run, for a network in your own code.
    """
    import torch

    from zskd.data.folder import read_image
    from zskd.models.checkpoint import load_checkpoint

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
        classes = "  ".join(f"{classifier.class_names[k]} {value:.3f}" for k, value in pairs)
        print_line(f"{path}  {classes}")
