"""`zskd inspect` and `zskd similarity`: facts about a teacher."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.outputs import must_be_result
from zskd.cli.telling import Json, Teller
from zskd.config.training import NetworkConfig
from zskd.core.errors import first_few

_MOST_NAMES = 20
"""Classes whose names and similarities fit on a screen."""


@app.command(
    help_epilogue=examples(
        "zskd inspect teacher/",
        "zskd inspect resnet20@net.th --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225",
        "zskd inspect timm:resnet18",
    )
)
def inspect(
    source: Path,
    /,
    *,
    teacher: NetworkConfig = NetworkConfig(),  # noqa: B008
    json: Json = False,
) -> None:
    """Report facts about a teacher, and warn of what will not work with it. Nothing is kept.

    Args:
        source: Checkpoint folder; file or folder of weights; or timm:NAME, torchvision:NAME, hf:FOLDER,
            onnx:FILE, file.py:factory@WEIGHTS, resnet20@WEIGHTS.
        teacher: Network and input.
        json: Print the facts as JSON.
    """
    from zskd.evaluation.gain import gain_table
    from zskd.evaluation.inspection import inspect_teacher
    from zskd.evaluation.sizes import sizes_costs
    from zskd.teacher.sources import open_given

    tell = Teller(json)
    classifier, card = open_given(source, teacher)
    found = inspect_teacher(classifier)
    spec = classifier.spec
    narrow = "cannot be made"
    if found.narrow is not None:
        size = f"{found.narrow.parameters:,} parameters, {found.narrow.multiply_adds:,} multiply-adds"
        narrow = f"{size}, by cutting {found.narrow.how}"
    golden = f"{card.golden.pairs} golden pairs agree" if card.golden else "no golden pairs"
    names = classifier.class_names
    shown = first_few(names, _MOST_NAMES)
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
        tell.line(f"{key:<14}{value}")
    costs = sizes_costs(classifier, ["narrow:0.5"])
    tell.table(gain_table(list(costs), list(costs.values())))
    if found.similarity is not None and len(names) <= _MOST_NAMES:
        tell.matrix("class similarity", found.similarity, names)
    notes = card.origin.lines()
    for line in (*notes, *(f"note: {warning}" for warning in found.warnings)):
        tell.line(line)
    tell.document(
        {
            "network": card.architecture.title,
            "origin": card.origin.how,
            "input": asdict(spec),
            "golden": card.golden and card.golden.to_json(),
            "class_names": names,
            **{key: _plain(value) for key, value in asdict(found).items()},
            "costs": {name: cost.to_json() for name, cost in costs.items()},
            "notes": notes,
        }
    )


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


@app.command(
    help_epilogue=examples(
        "zskd similarity teacher/ --out similarity.json",
    )
)
def similarity(
    source: Path, /, *, out: Path | None = None, model: str | None = None, json: Json = False
) -> None:
    """Print the class similarity of a teacher and its concentration, or write both as JSON.

    Args:
        source: Checkpoint folder, or another source as for `zskd inspect`.
        out: JSON file; absent: print.
        model: Network of weights, or factory to run, for a network in your own code.
        json: Print both as JSON.
    """
    from zskd.core.artefact import write_artefact
    from zskd.run.similarity import SimilarityFile, similarity_of
    from zskd.teacher.opening import open_teacher

    tell = Teller(json)
    if out is not None:
        must_be_result(out, SimilarityFile.model_fields)
    classifier, _ = open_teacher(source, model=model)
    found = similarity_of(classifier)
    if out is not None:
        write_artefact(out, found)
        tell.line(f"similarity in {out}")
    else:
        tell.matrix("class similarity", np.array(found.similarity), found.class_names)
        tell.matrix("concentration", np.array(found.concentration), found.class_names)
    tell.document(found.to_json())
