"""Checkpoints: a folder with `model.safetensors` and `card.json`.

The card says how to build the network, what it takes, what its classes are called and where it came
from. It carries the hash of the weights, so that the two files cannot be mixed up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zskd.core.errors import ZskdError, one_line
from zskd.core.files import make_folder, read_json, sha256_file, whole_file, write_json
from zskd.core.tensors import read_tensors, save_tensors
from zskd.core.versions import versions
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import Architecture, build

WEIGHTS, CARD = "model.safetensors", "card.json"
_FORMAT = "zskd-checkpoint/1"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a checkpoint says about itself."""

    architecture: Architecture
    """How to build the network."""
    origin: dict[str, Any] = field(default_factory=dict)
    """How the weights came to be: trained, imported or distilled, with settings and hashes."""
    golden: dict[str, Any] | None = None
    """Result of the check against golden pairs; None when it was not made."""


def save_checkpoint(folder: Path, classifier: Classifier, card: Card) -> Path:
    """Write a checkpoint; its card comes last and makes it valid.

    Returns:
        `folder`.
    """
    make_folder(folder)
    tensors = {name: t.detach().cpu().contiguous() for name, t in classifier.module.state_dict().items()}
    with whole_file(folder / WEIGHTS) as temporary:
        save_tensors(tensors, temporary)
    spec = asdict(classifier.spec)
    write_json(
        folder / CARD,
        {
            "format": _FORMAT,
            **asdict(card),
            "input": spec,
            "class_names": list(classifier.class_names),
            "head": classifier.head_name,
            "parameters": classifier.parameters_count,
            "weights_sha256": sha256_file(folder / WEIGHTS),
            "versions": versions(),
        },
    )
    return folder


def load_checkpoint(folder: Path, *, model: str | None = None) -> tuple[Classifier, dict[str, Any]]:
    """Read a checkpoint and return the classifier with its card.

    Args:
        folder: the checkpoint's folder.
        model: the factory to run when the network is made by the user's own code.

    Raises:
        ZskdError: missing, damaged or mixed-up files, non-finite weights, or a factory not named.
    """
    card = read_card(folder)
    weights = folder / WEIGHTS
    if sha256_file(weights) != card["weights_sha256"]:
        raise ZskdError(f"{weights} is not the file that its card was written for: copy the folder again")
    try:
        architecture = dict(card["architecture"])
        if model is not None and "factory" in architecture:
            architecture = {"factory": model}
        module = build(architecture, run_code=model is not None)
        load_weights(module, read_tensors(weights), weights)
        spec = InputSpec(**{key: _tuple(value) for key, value in card["input"].items()})
        classifier = Classifier(
            module,
            spec=spec,
            class_names=tuple(card["class_names"]),
            head=str(card["head"]),
            copy=False,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ZskdError(f"{folder / CARD} is damaged ({one_line(error)}): make it again") from error
    return classifier, card


def read_card(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's card.

    Raises:
        ZskdError: the folder is no checkpoint, or the card is damaged or of another format.
    """
    if not folder.is_dir():
        raise ZskdError(
            f"{folder} is no checkpoint folder; a file from elsewhere becomes one with: zskd teacher import"
        )
    card = read_json(folder / CARD, "the card of a checkpoint")
    needed = {"format", "architecture", "input", "class_names", "head", "weights_sha256"}
    if card.get("format") != _FORMAT or not needed <= card.keys():
        raise ZskdError(f"{folder / CARD} is not a card of format {_FORMAT}: make the checkpoint again")
    return card


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


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
