"""Checkpoints: a folder with `model.safetensors` and `card.json`.

The card says how to build the network, what it takes, what its classes are called and where it came
from. It carries the hash of the weights, so that the two files cannot be mixed up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn

from zskd.core.artefact import (
    Artefact,
    AtLeastOne,
    ClassNames,
    Count,
    JsonObject,
    Sha256,
    Shape,
    Versions,
    parse,
    write_artefact,
)
from zskd.core.errors import ZskdError
from zskd.core.files import make_folder, read_json, sha256_file, whole_file
from zskd.core.tensors import read_tensors, save_tensors
from zskd.core.versions import versions
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import Architecture, Factory, build

WEIGHTS, CARD = "model.safetensors", "card.json"
_FORMAT: Final = "zskd-checkpoint/1"
_WHAT = "the card of a checkpoint"
Number = int | float
"""Whole numbers stay whole: the fingerprint of a network tells 0 from 0.0."""


class Origin(Artefact):
    """How weights came to be. Known are the keys of trained, imported and distilled networks; a network of
    another origin may have keys of its own."""

    model_config = ConfigDict(extra="allow")

    how: str = "unknown"
    """trained, imported or distilled."""
    file: str | None = None
    """Name of an imported file."""
    file_sha256: Sha256 | None = None
    teacher_sha256: Sha256 | None = None
    """Fingerprint of a student's teacher."""
    transfer_set_sha256: Sha256 | None = None
    """Fingerprint of the images that a student learned from; None where a generator made them."""
    method: str | None = None
    """How these images were made; `real` for real ones."""
    seed: Count | None = None
    inherited: bool | None = None
    """Whether a student began with weights of its teacher."""
    data: JsonObject | None = None
    """Settings of the data that a teacher was trained on."""
    teacher: JsonObject | None = None
    """Settings of a teacher's training."""
    versions: Versions | None = None
    distill: JsonObject | None = None
    """Settings of a distillation."""
    threads: AtLeastOne | None = None
    device: str | None = None


class Golden(Artefact):
    """Result of the check against golden pairs, which agreed."""

    pairs: AtLeastOne
    largest_difference: Annotated[float, Field(ge=0)]
    """Of two logits."""
    file_sha256: Sha256


class Input(Artefact):
    """What a network takes: an `InputSpec` as JSON."""

    shape: Shape
    mean: tuple[Number, ...]
    std: tuple[Number, ...]
    box: tuple[Number, Number]

    @classmethod
    def of(cls, spec: InputSpec) -> Input:
        """Return the JSON of a specification."""
        return cls(shape=spec.shape, mean=spec.mean, std=spec.std, box=spec.box)

    @model_validator(mode="after")
    def _can_be(self) -> Input:
        self.spec()
        return self

    def spec(self) -> InputSpec:
        """Return the specification.

        Raises:
            ZskdError: no image could meet it.
        """
        return InputSpec(shape=self.shape, mean=self.mean, std=self.std, box=self.box)


class Card(Artefact):
    """What whoever makes a network knows of it, for its checkpoint."""

    format: Literal["zskd-checkpoint/1"] = _FORMAT
    architecture: Architecture
    """How to build the network."""
    origin: Origin = Field(default_factory=Origin)
    """How the weights came to be: trained, imported or distilled, with settings and hashes."""
    golden: Golden | None = None
    """Result of the check against golden pairs; None when it was not made."""


class StoredCard(Card):
    """The card of a checkpoint on disk."""

    input: Input
    class_names: Annotated[ClassNames, Field(min_length=2)]
    head: str
    """Dotted name of the last linear layer."""
    parameters: AtLeastOne | None = None
    """Number of trainable values."""
    weights_sha256: Sha256
    """Of the file with the weights."""
    versions: Versions | None = None


def save_checkpoint(folder: Path, classifier: Classifier, card: Card) -> Path:
    """Write a checkpoint; its card comes last and makes it valid.

    Args:
        folder: of the checkpoint.
        classifier: the network.
        card: its architecture, origin and golden check.

    Returns:
        `folder`.
    """
    make_folder(folder)
    tensors = {name: t.detach().cpu().contiguous() for name, t in classifier.module.state_dict().items()}
    with whole_file(folder / WEIGHTS) as temporary:
        save_tensors(tensors, temporary)
    stored = StoredCard(
        format=card.format,
        architecture=card.architecture,
        origin=card.origin,
        golden=card.golden,
        input=Input.of(classifier.spec),
        class_names=classifier.class_names,
        head=classifier.head_name,
        parameters=classifier.parameters_count,
        weights_sha256=sha256_file(folder / WEIGHTS),
        versions=versions(),
    )
    write_artefact(folder / CARD, stored)
    return folder


def load_checkpoint(folder: Path, *, model: str | None = None) -> tuple[Classifier, StoredCard]:
    """Read a checkpoint and return the classifier with its card.

    Args:
        folder: the checkpoint's folder.
        model: the factory to run when the network is made by the user's own code.

    Raises:
        ZskdError: missing, damaged or mixed-up files, non-finite weights, or a factory not named.
    """
    card = read_card(folder)
    weights = folder / WEIGHTS
    if sha256_file(weights) != card.weights_sha256:
        raise ZskdError(f"{weights} is not the file that its card was written for: copy the folder again")
    architecture = card.architecture
    if model is not None and isinstance(architecture, Factory):
        architecture = Factory(factory=model)
    module = build(architecture, run_code=model is not None)
    load_weights(module, read_tensors(weights), weights)
    classifier = Classifier(
        module, spec=card.input.spec(), class_names=card.class_names, head=card.head, copy=False
    )
    return classifier, card


def read_card(folder: Path) -> StoredCard:
    """Read a checkpoint's card.

    Raises:
        ZskdError: the folder is no checkpoint, or the card is damaged or of another format.
    """
    if not folder.is_dir():
        raise ZskdError(
            f"{folder} is no checkpoint folder; a file from elsewhere becomes one with: zskd teacher import"
        )
    path = folder / CARD
    values = read_json(path, _WHAT)
    if values.get("format") != _FORMAT:
        raise ZskdError(f"{path} is not a card of format {_FORMAT}: make the checkpoint again")
    return parse(values, StoredCard, f"{path}, {_WHAT},", "make the checkpoint again")


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Put named tensors into a module, all of them and no others.

    Raises:
        ZskdError: names or shapes differ (the first difference is named), or a value is not finite.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    wrong = [
        f"{name} is {tuple(tensors[name].shape)} in the file and {tuple(own[name].shape)} in the network"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if missing or extra or wrong:
        why = [f"{len(missing)} tensors are missing, e.g. {missing[0]}"] if missing else []
        why += [f"{len(extra)} are unknown to it, e.g. {extra[0]}"] if extra else []
        why += wrong[:1]
        raise ZskdError(
            f"{source} belongs to another architecture ({'; '.join(why)}): name the right one with --model"
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != own[name].is_floating_point() or tensor.is_complex():
            raise ZskdError(f"{source}: {name} holds {tensor.dtype}, and the network wants {own[name].dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ZskdError(f"{source} holds values that are not finite in {name}: it cannot be used")
    module.float()
    module.load_state_dict(dict(tensors))
