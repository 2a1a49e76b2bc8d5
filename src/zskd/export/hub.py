"""A network as a folder for the Hugging Face Hub: code, weights, config.json and a model card."""

from __future__ import annotations

import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zskd.core.artefact import JsonObject
from zskd.core.code import without_folders
from zskd.core.errors import first_few
from zskd.core.extras import import_extra
from zskd.core.files import whole_folder, write_json, write_text
from zskd.core.types import Images
from zskd.export.check import Comparison, check_pictures, compare
from zskd.export.folder import MODEL, write_network
from zskd.export.recording import record
from zskd.export.source import read_source
from zskd.export.templates import CARD_FILE
from zskd.models.checkpoint import Card, Origin
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.exported import Description
from zskd.models.factory import Architecture, Narrowed
from zskd.models.libraries.timm import TimmNetwork
from zskd.transfer_set.export.card import PAPER
from zskd.transfer_set.manifest import PICTURES, REAL

CONFIG, README = "config.json", "README.md"


def export_hf(
    classifier: Classifier,
    card: Card,
    folder: str | Path,
    *,
    results: Sequence[str] = (),
    images: Images | None = None,
) -> Comparison:
    """Write a network as a folder for the Hugging Face Hub.

    It holds what `export_torch` writes, and `config.json` and `README.md`, the model card. `Network` of
    `model.py`, with `PyTorchModelHubMixin` as a second base class, is loaded by `from_pretrained`. Where the
    network is one of timm, `timm.create_model("local-dir:FOLDER", pretrained=True)` opens the folder too; the
    normalisation is then outside of it, as in all networks of timm, and `config.json` tells mean and std.

    Args:
        classifier: not changed.
        card: of its checkpoint, from `load_checkpoint`: architecture and origin.
        folder: absent or empty.
        results: sentences about what was measured, for the model card.
        images: to compare on (N, C, H, W) in [0, 1]; 1,000 random shapes when absent, 64 if they are large.

    Returns:
        The comparison.

    Raises:
        ZskdError: as `export_torch` does.
    """
    pictures = check_pictures(classifier, images)
    source = read_source(record(classifier))
    description, title = Description.of(classifier), plain_title(card.architecture)
    with whole_folder(Path(folder)) as temporary:
        write_network(source, description, title, temporary)
        _write_config(classifier, card, temporary / CONFIG)
        write_text(temporary / README, _model_card(classifier, card, results))
        read = runpy.run_path(str(temporary / MODEL))["load"]()
        return compare(read, classifier, pictures, what=str(folder))


def plain_title(architecture: Architecture) -> str:
    """Return the name of a network without the folders of its code."""
    if isinstance(architecture, Narrowed):
        return f"{architecture.student} of {plain_title(architecture.of)}"
    return str(without_folders(architecture.title))


def _write_config(classifier: Classifier, card: Card, path: Path) -> None:
    """Write config.json; in timm's own form where the network is one of timm."""
    names, spec = classifier.class_names, classifier.spec
    facts: JsonObject = {
        "id2label": {str(k): name for k, name in enumerate(names)},
        "label2id": {name: k for k, name in enumerate(names)},
        "preprocessing": {
            "shape": list(spec.shape),
            "range": [0, 1],
            "resample": "bilinear",
            "mean": list(spec.mean),
            "std": list(spec.std),
            "normalisation": "inside model.py",
        },
        "zskd": Description.of(classifier).to_json(),
    }
    if isinstance(card.architecture, TimmNetwork):
        _write_timm_config(classifier, card.architecture, facts, path)
    else:
        write_json(path, {"architecture": plain_title(card.architecture), "num_classes": len(names), **facts})


def _write_timm_config(
    classifier: Classifier, architecture: TimmNetwork, facts: JsonObject, path: Path
) -> None:
    import_extra("timm")
    from timm.models._hub import save_config_for_hf

    spec = classifier.spec
    data: dict[str, Any] = {
        "input_size": spec.shape,
        "mean": _per_channel(spec, spec.mean),
        "std": _per_channel(spec, spec.std),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",  # as zskd reads pictures
    }
    own = {"label_names": list(classifier.class_names), **facts}
    save_config_for_hf(
        classifier.module, str(path), model_config=own, model_args=architecture.arguments, data_config=data
    )
    write_json(path, json.loads(path.read_text("utf-8")))


def _per_channel(spec: InputSpec, values: tuple[float, ...]) -> tuple[float, ...]:
    return values * spec.shape[0] if len(values) == 1 else values


def _model_card(classifier: Classifier, card: Card, results: Sequence[str]) -> str:
    timm = isinstance(card.architecture, TimmNetwork)
    return CARD_FILE.format(
        library="timm" if timm else "pytorch",
        title=plain_title(card.architecture),
        parameters=f"{classifier.parameters_count:,}",
        shape="×".join(map(str, classifier.spec.shape)),
        classes=len(classifier.class_names),
        names=first_few(classifier.class_names, 20),
        by_timm=_BY_TIMM if timm else "",
        results="\n".join(f"- {line}" for line in results) or _NO_RESULTS,
        made="\n".join(f"- {line}" for line in _made(card.origin)),
        limits=_STUDENT_LIMITS if card.origin.how == "distilled" else _LIMITS,
        sha256=classifier.fingerprint(),
    )


def _made(origin: Origin) -> list[str]:
    """Return how a network was made, a line each."""
    words = {
        "trained": "Trained on real images, with labels.",
        "imported": "Imported from a file; how it was trained is not known here.",
        "distilled": _distilled(origin),
    }
    facts = {
        "Images of its transfer set": origin.transfer_set_images,
        "Method of the transfer set": origin.method,
        "Fingerprint of the teacher": origin.teacher_sha256,
        "Fingerprint of the transfer set": origin.transfer_set_sha256,
        "Fingerprints of further pictures": origin.pictures_sha256
        and ", ".join(f"{kind} {one}" for kind, one in origin.pictures_sha256.items()),
        "Seed": origin.seed,
        "Versions": origin.versions and ", ".join(f"{name} {one}" for name, one in origin.versions.items()),
        "Settings": origin.distill and f"`{json.dumps(without_folders(origin.distill))}`",
    }
    first = words.get(origin.how, "How it was made is not known here.")
    return [first, *(f"{name}: {value}" for name, value in facts.items() if value is not None)]


def _distilled(origin: Origin) -> str:
    """Return what a student learned from, a sentence."""
    if origin.method == REAL:
        return "Distilled from a teacher on real images."
    if origin.method == PICTURES:
        return "Distilled from a teacher on pictures that were given."
    beside = "; pictures that were given were shown beside what was made" if origin.pictures_sha256 else ""
    return f"Distilled from a teacher by [zero-shot knowledge distillation]({PAPER}){beside}."


_NO_RESULTS = "No results are recorded beside this network. `zskd evaluate` measures them."
_LIMITS = (
    "It was measured on nothing but what stands under Results. Pictures of other kinds get a class, too."
)
_STUDENT_LIMITS = (
    "It learned the outputs of its teacher on the images of its transfer set, and its teacher's mistakes "
    "with them. Measure it on pictures of your own before you rely on it. Pictures of other kinds get a "
    "class, too, and its probabilities are not calibrated."
)
_BY_TIMM = """
Or by timm, with the mean and the std of `config.json` applied before:

```python
import timm

network = timm.create_model("local-dir:.", pretrained=True).eval()
```
"""
