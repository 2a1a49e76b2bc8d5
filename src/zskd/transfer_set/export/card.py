"""The dataset card of an exported transfer set: `README.md`, which `datasets` and the Hub read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import yaml

from zskd.config.synthesis import SynthesisConfig
from zskd.core.artefact import JsonObject, JsonValue
from zskd.core.code import without_folders
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import PICTURES, REAL, Manifest

README = "README.md"
PAPER = "https://arxiv.org/abs/1905.08114"


@dataclass(frozen=True)
class Column:
    """One column of an exported set."""

    name: str
    words: str
    feature: JsonObject
    """Its type, as `datasets` writes it in a card's YAML."""

    def typed(self) -> JsonValue:
        """Return name and type, as they stand in a card's YAML."""
        return {"name": self.name, **self.feature}


def columns(transfer_set: TransferSet) -> list[Column]:
    """Return the columns of an exported set."""
    names = transfer_set.class_names
    labels: JsonObject = {"class_label": {"names": {str(k): name for k, name in enumerate(names)}}}
    numbers: JsonObject = {"sequence": "float32", "length": len(names)}
    return [
        Column("image", "the picture, in 8 bits", {"dtype": "image"}),
        Column("label", _LABELS.get(transfer_set.manifest.method, _MADE_LABEL), {"dtype": labels}),
        Column("target", f"{len(names)} probabilities {_wanted(transfer_set.manifest)}", numbers),
        Column("logits", f"{len(names)} logits that the teacher outputs for the picture in 8 bits", numbers),
    ]


def dataset_card(transfer_set: TransferSet, found: Sequence[Column], read: str, *, typed: bool = True) -> str:
    """Return the text of a dataset card.

    Args:
        transfer_set: what is exported.
        found: the columns of the exported files.
        read: lines of Python that open them.
        typed: whether `datasets` takes the types from the card, and not from the files alone.
    """
    manifest = transfer_set.manifest
    head: JsonObject = {
        "pretty_name": f"Transfer set of {len(transfer_set):,} images",
        "task_categories": ["image-classification"],
        "tags": ["knowledge-distillation", "zskd"],
    }
    if typed:
        head["dataset_info"] = {"features": [one.typed() for one in found]}
    else:  # a folder of a class named train or test would be taken for a split
        head["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": "**"}]}]
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=100_000)
    return _CARD.format(
        front=front,
        count=f"{len(transfer_set):,}",
        shape="×".join(map(str, transfer_set.shape)),
        classes=len(manifest.class_names),
        columns="\n".join(f"| `{one.name}` | {one.words} |" for one in found),
        read=read,
        made="\n".join(f"- {line}" for line in _made(transfer_set)),
        settings=json.dumps(without_folders(manifest.spec), sort_keys=True),
        limits=_LIMITS.get(manifest.method, _MADE_LIMITS),
    )


def _made(transfer_set: TransferSet) -> list[str]:
    """Return how a set was made, a line each."""
    manifest = transfer_set.manifest
    facts = {
        "Fingerprint of the teacher": manifest.teacher_sha256,
        "Fingerprint of the set": transfer_set.fingerprint(),
        "SHA-256 of the pictures": manifest.data_sha256,
        "Share for which the teacher predicts the label": f"{manifest.anchor_match:.1%}",
        "Mean KL divergence of target and teacher": f"{manifest.mean_kl:.3g} nats",
        "Versions": ", ".join(f"{name} {one}" for name, one in manifest.versions.items()),
    }
    return [_how(manifest), *(f"{name}: {value}" for name, value in facts.items() if value is not None)]


def _how(manifest: Manifest) -> str:
    if manifest.method == REAL:
        return "Real images with their labels; the targets are the teacher's outputs."
    if manifest.method == PICTURES:
        return "Pictures that were given; the targets are the teacher's outputs."
    method = re.sub(r"[^\w.:-]", "", without_folders(manifest.method))
    return (
        "Made from the teacher alone, without any of its training data, by the method "
        f"`{method}` for [zero-shot knowledge distillation]({PAPER})."
    )


def _wanted(manifest: Manifest) -> str:
    """Return whose probabilities a target holds, and at which temperature."""
    if manifest.method in (REAL, PICTURES):
        return f"that the teacher outputs at the temperature {SynthesisConfig().tau:g}"
    synthesis = manifest.spec.get("synthesis")
    tau = synthesis.get("tau") if isinstance(synthesis, Mapping) else None
    return f"that the teacher should output at the temperature {tau}"


_MADE_LABEL = "the class that the image was made for, or else the class that the teacher predicts"
_LABELS: Final = {REAL: "its label", PICTURES: "its label, or else the class that the teacher predicts"}
_MADE_LIMITS = (
    "These images are no photographs. They were made to teach a student what this teacher outputs, and they "
    "hold the teacher's mistakes. A network that is right about them may be wrong about real pictures."
)
_REAL_LIMITS = (
    "These are real pictures. Whether they may be passed on is a question of where they came from, which is "
    "not known here. The targets hold the teacher's mistakes."
)
_LIMITS: Final = {REAL: _REAL_LIMITS, PICTURES: _REAL_LIMITS}
_CARD: Final = """---
{front}---

# Transfer set of {count} images

Images of {shape} (channels, height, width) in {classes} classes, to distil a classifier into a student.

| column | what |
|---|---|
{columns}

```python
{read}
```

## How it was made

{made}
- Written by `zskd export`. Settings:

```json
{settings}
```

## Limits

{limits}
"""
