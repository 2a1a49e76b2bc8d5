"""`zskd inspect` and `zskd similarity`: facts about a teacher."""

from __future__ import annotations

from pathlib import Path

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.options import print_line, print_matrix, print_table
from zskd.config.training import NetworkConfig

_MOST_NAMES = 20
"""Classes whose names and similarities fit on a screen."""


@app.command(
    help_epilogue=examples(
        "zskd inspect teacher/",
        "zskd inspect resnet20@net.th --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225",
        "zskd inspect timm:resnet18",
    )
)
def inspect(source: Path, /, *, teacher: NetworkConfig = NetworkConfig()) -> None:  # noqa: B008
    """Report facts about a teacher, and warn of what will not work with it. Nothing is kept.

    Args:
        source: Checkpoint folder; file or folder of weights; or timm:NAME, torchvision:NAME, hf:FOLDER,
            onnx:FILE, file.py:factory@WEIGHTS, resnet20@WEIGHTS.
        teacher: Network and input.
    """
    from zskd.evaluation.inspection import inspect_teacher
    from zskd.evaluation.sizes import sizes_table
    from zskd.teacher.sources import open_given

    classifier, card = open_given(source, teacher)
    found = inspect_teacher(classifier)
    spec = classifier.spec
    narrow = "cannot be made"
    if found.narrow is not None:
        size = f"{found.narrow.parameters:,} parameters, {found.narrow.multiply_adds:,} multiply-adds"
        narrow = f"{size}, by cutting {found.narrow.how}"
    golden = f"{card.golden.pairs} golden pairs agree" if card.golden else "no golden pairs"
    names = classifier.class_names
    shown = ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
    facts = {
        "network": card.architecture.title,
        "origin": card.origin.how,
        "input": f"{spec.shape} in [{spec.box[0]:g}, {spec.box[1]:g}], mean {spec.mean}, std {spec.std}",
        "checked": golden,
        "classes": f"{classifier.classes}: {shown}",
        "output": found.output,
        "head": f"{found.head}, {found.features} features, {found.head_kind}" if found.head else "none",
        "batch-norm": f"{found.batch_norms} layers",
        "parameters": f"{found.parameters:,}",
        "multiply-adds": f"{found.multiply_adds:,} per image",
        "narrow:0.5": narrow,
    }
    if found.half_parameters:
        facts["half"] = f"{found.half_parameters:,} parameters"
    for key, value in facts.items():
        print_line(f"{key:<14}{value}")
    print_table(sizes_table(classifier, ["narrow:0.5"]))
    if found.similarity is not None and len(names) <= _MOST_NAMES:
        print_matrix("class similarity", found.similarity, names)
    for line in (*card.origin.lines(), *(f"note: {warning}" for warning in found.warnings)):
        print_line(line)


@app.command(
    help_epilogue=examples(
        "zskd similarity teacher/ --out similarity.json",
    )
)
def similarity(source: Path, /, *, out: Path | None = None, model: str | None = None) -> None:
    """Print the class similarity of a teacher and its concentration, or write both as JSON.

    Args:
        source: Checkpoint folder, or another source as for `zskd inspect`.
        out: JSON file; absent: print.
        model: Network of weights, or factory to run, for a network in your own code.
    """
    from zskd.run.similarity import write_similarity
    from zskd.synthesis.similarity import class_similarity, concentration
    from zskd.teacher.opening import open_teacher

    classifier, _ = open_teacher(source, model=model)
    if out is not None:
        write_similarity(classifier, out)
        print_line(f"similarity in {out}")
        return
    matrix = class_similarity(classifier.head_weight)
    print_matrix("class similarity", matrix, classifier.class_names)
    print_matrix("concentration", concentration(matrix), classifier.class_names)
