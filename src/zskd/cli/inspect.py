"""`zskd inspect` and `zskd similarity`: facts about a teacher."""

from __future__ import annotations

from pathlib import Path

from zskd.cli.app import app, examples
from zskd.cli.options import print_line, print_matrix


@app.command(
    help_epilogue=examples(
        "zskd inspect teacher/",
    )
)
def inspect(teacher: Path, /, *, model: str | None = None) -> None:
    """Report facts about a teacher, and warn of what will not work with it.

    Args:
        teacher: Checkpoint folder.
        model: Factory to run, for a network in your own code.
    """
    from zskd.evaluation.inspection import inspect_teacher
    from zskd.models.checkpoint import load_checkpoint

    classifier, card = load_checkpoint(teacher, model=model)
    found = inspect_teacher(classifier)
    spec = classifier.spec
    half = f"{found.half_parameters:,} parameters" if found.half_parameters else "cannot be made"
    golden = f"{card.golden.pairs} golden pairs agree" if card.golden else "no golden pairs"
    facts = {
        "network": card.architecture.title,
        "origin": card.origin.how,
        "input": f"{spec.shape} in [{spec.box[0]:g}, {spec.box[1]:g}], mean {spec.mean}, std {spec.std}",
        "checked": golden,
        "classes": f"{classifier.classes}: {', '.join(classifier.class_names)}",
        "head": f"{found.head}, {found.features} features",
        "batch-norm": f"{found.batch_norms} layers",
        "parameters": f"{found.parameters:,}",
        "multiply-adds": f"{found.multiply_adds:,} per image",
        "student half": half,
    }
    for key, value in facts.items():
        print_line(f"{key:<14}{value}")
    print_matrix("class similarity", found.similarity, classifier.class_names)
    for warning in found.warnings:
        print_line(f"note: {warning}")


@app.command(
    help_epilogue=examples(
        "zskd similarity teacher/ --out similarity.json",
    )
)
def similarity(teacher: Path, /, *, out: Path | None = None, model: str | None = None) -> None:
    """Print the class similarity of a teacher and its concentration, or write both as JSON.

    Args:
        teacher: Checkpoint folder.
        out: JSON file; absent: print.
        model: Factory to run, for a network in your own code.
    """
    from zskd.models.checkpoint import load_checkpoint
    from zskd.run.similarity import write_similarity
    from zskd.synthesis.similarity import class_similarity, concentration

    classifier, _ = load_checkpoint(teacher, model=model)
    if out is not None:
        write_similarity(classifier, out)
        print_line(f"similarity in {out}")
        return
    matrix = class_similarity(classifier.head_weight)
    print_matrix("class similarity", matrix, classifier.class_names)
    print_matrix("concentration", concentration(matrix), classifier.class_names)
