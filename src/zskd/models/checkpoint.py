"""Checkpoints: a folder with `model.safetensors` and `card.json`.

The card holds the architecture, the input specification, the class names and the origin of the weights. It
also holds the hash of the weights file, so that a wrong pair of files is detected.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
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
from zskd.core.code import parse_call
from zskd.core.errors import ZskdError
from zskd.core.files import make_folder, sha256_file, whole_file
from zskd.core.passes import Passes
from zskd.core.reading import read_json
from zskd.core.tensors import read_tensors, save_tensors, set_state
from zskd.core.versions import versions
from zskd.models.allocation import Allocations
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import (
    MOST_PARAMETERS,
    Architecture,
    Factory,
    Layers,
    LibraryNetwork,
    Named,
    Narrowed,
    build,
    innermost,
)
from zskd.models.libraries.onnx import ONNX, ConvertedOnnx, OnnxNetwork
from zskd.models.preparation import state_of

WEIGHTS, CARD = "model.safetensors", "card.json"
_FORMAT: Final = "zskd-checkpoint/1"
_WHAT, _ADVICE = "the card of a checkpoint", "make the checkpoint again"
NOT_KNOWN = "is not known: "
"""Begins the origin of a fact that nobody told."""
_DESCRIBED = Named | Layers | LibraryNetwork
"""Networks of which the card holds all."""
Number = int | float
"""Integers stay integers: 0 and 0.0 give different fingerprints of a network."""


class Origin(Artefact):
    """Origin of weights. Its fields are the keys of trained, imported and distilled networks; others are
    allowed."""

    model_config = ConfigDict(extra="allow")

    how: str = "unknown"
    """trained, imported or distilled."""
    source: str | None = None
    """The name under which the user opened the network: "timm:resnet18@best.pth"."""
    facts: dict[str, str] | None = None
    """Where each fact of the input and the classes comes from: {"mean": "timm pretrained_cfg"}."""
    file: str | None = None
    """Name of an imported file."""
    file_sha256: Sha256 | None = None
    """Hash of an imported file; of several files, of their names and hashes."""
    taken: str | None = None
    """What was taken from an imported file, and what was changed, in one line."""
    epsilon: Annotated[float, Field(gt=0)] | None = None
    """Relative spacing of the numbers in which imported weights were stored, if coarser than float32."""
    teacher_sha256: Sha256 | None = None
    """Fingerprint of the teacher of a student."""
    transfer_set_sha256: Sha256 | None = None
    """Fingerprint of the transfer set of a student; None where a generator made all images."""
    pictures_sha256: dict[str, Sha256] | None = None
    """Fingerprints of the sets of pictures that a student was shown as well: of "images" and "few"."""
    transfer_set_images: Count | None = None
    """Size of that set."""
    method: str | None = None
    """Method of the transfer set (`real` for real images, `pictures` for the user's), or of the generator of
    all images."""
    seed: Count | None = None
    inherited: bool | None = None
    """Whether a student was initialised from its teacher."""
    data: JsonObject | None = None
    """Settings of the training data of a teacher."""
    teacher: JsonObject | None = None
    """Settings of the training of a teacher."""
    versions: Versions | None = None
    distill: JsonObject | None = None
    """Settings of a distillation."""
    code: dict[str, Sha256 | None] | None = None
    """Hash of each source file of the user's own code that a student depends on; absent without such."""
    passes: Passes | None = None
    """Through teacher and student until the student was trained, by stage; those of the transfer set are in
    its manifest."""
    threads: AtLeastOne | None = None
    ranks: AtLeastOne | None = None
    """Processes that a student was trained in together, if several; each with these threads."""
    device: str | None = None

    def lines(self) -> list[str]:
        """Return for people, a line each, what was read from a file, and what nobody told of its input."""
        read = [f"read {self.taken}"] if self.taken else []
        facts = self.facts or {}
        told = ((name, facts.get(name, "")) for name in ("shape", "mean", "std", "transform_input"))
        return read + [f"note: {name} {origin}" for name, origin in told if origin.startswith(NOT_KNOWN)]


class Golden(Artefact):
    """Result of a successful check against golden pairs."""

    pairs: AtLeastOne
    largest_difference: Annotated[float, Field(ge=0)]
    """Largest absolute difference of two logits."""
    file_sha256: Sha256


class Input(Artefact):
    """Input specification of a network: an `InputSpec` as JSON."""

    shape: Shape
    mean: tuple[Number, ...]
    std: tuple[Number, ...]
    box: tuple[Number, Number]

    @classmethod
    def of(cls, spec: InputSpec) -> Input:
        """Return the JSON of a specification."""
        return cls(shape=spec.shape, mean=spec.mean, std=spec.std, box=spec.box)

    @model_validator(mode="after")
    def _is_valid(self) -> Input:
        self.spec()
        return self

    def spec(self) -> InputSpec:
        """Return the specification.

        Raises:
            ZskdError: the values are invalid.
        """
        return InputSpec(shape=self.shape, mean=self.mean, std=self.std, box=self.box)


class Card(Artefact):
    """Description of a network for its checkpoint: the part that its maker provides."""

    format: Literal["zskd-checkpoint/1"] = _FORMAT
    architecture: Architecture
    """Architecture of the network."""
    origin: Origin = Field(default_factory=Origin)
    """Origin of the weights, with settings and hashes."""
    golden: Golden | None = None
    """Result of the check against golden pairs; None without a check."""


class StoredCard(Card):
    """The card of a checkpoint on disk."""

    input: Input
    class_names: Annotated[ClassNames, Field(min_length=2)]
    head: str | None
    """Dotted name of the last linear layer: the one whose output the network returns, or that was named."""
    parameters: AtLeastOne | None = None
    """Number of trainable values."""
    weights_sha256: Sha256
    """SHA-256 of the weights file."""
    versions: Versions | None = None


def save_checkpoint(classifier: Classifier, card: Card, folder: str | Path) -> Path:
    """Write a checkpoint: first the weights, then the card, which makes it valid.

    Args:
        classifier: the network.
        card: its architecture, origin and golden check.
        folder: of the checkpoint.

    Returns:
        `folder`.

    Raises:
        ZskdError: the folder cannot be written to, or the network has state that is no tensor.
    """
    folder = make_folder(Path(folder))
    if isinstance(innermost(card.architecture), OnnxNetwork) and isinstance(classifier.module, ConvertedOnnx):
        with whole_file(folder / ONNX) as temporary:
            temporary.write_bytes(classifier.module.model)
    tensors = {name: t.detach().cpu().contiguous() for name, t in state_of(classifier.module).items()}
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


def load_checkpoint(
    folder: str | Path, *, model: str | None = None, option: str = "--model"
) -> tuple[Classifier, StoredCard]:
    """Read a checkpoint and return the classifier, in evaluation mode, with its card.

    Args:
        folder: the checkpoint's folder.
        model: factory to run, for a network in the user's own code.
        option: by which the user names it, for messages.

    Raises:
        ZskdError: files are missing, damaged or do not belong together, weights are not finite, or the
            network needs a factory that is not given.
    """
    folder = Path(folder)
    card, weights = read_card(folder), folder / WEIGHTS
    if sha256_file(weights) != card.weights_sha256:
        raise ZskdError(f"{weights} is not the file of its card: copy the whole folder again")
    architecture = card.architecture if model is None else _with_code(card.architecture, model)
    tensors = read_tensors(weights)
    # the user's own code, and the converter of ONNX files, build what they like
    described = isinstance(innermost(architecture), _DESCRIBED)
    least = MOST_PARAMETERS if isinstance(architecture, Narrowed) else 0
    with Allocations(tensors.values(), least=least) if described else nullcontext():
        module = build(architecture, run_code=model is not None, folder=folder, option=option)
    load_weights(module, tensors, weights, option)
    classifier = Classifier(
        module, spec=card.input.spec(), class_names=card.class_names, head=card.head, copy=False
    )
    classifier.architecture = architecture
    classifier.eval()
    return classifier, card


def _with_code(architecture: Architecture, model: str) -> Architecture:
    """Return an architecture of the user's own code with the code that the user names."""
    if isinstance(architecture, Narrowed):
        return architecture.model_copy(update={"of": _with_code(architecture.of, model)})
    if isinstance(architecture, Factory):
        kept, _ = parse_call(architecture.factory)
        if parse_call(model) != (kept, {}):  # the name alone leaves the arguments of the card
            return Factory(factory=model)
    return architecture


def read_card(folder: Path) -> StoredCard:
    """Read a checkpoint's card.

    Raises:
        ZskdError: the folder is not a checkpoint, or the card is damaged or has another format.
    """
    if not folder.is_dir():
        raise ZskdError(
            f"{folder} is not a checkpoint folder: import another file with zskd teacher import FILE"
        )
    path = folder / CARD
    values = read_json(path, _WHAT, _ADVICE)
    if values.get("format") != _FORMAT:
        raise ZskdError(f"{path} is not a card of format {_FORMAT}: {_ADVICE}")
    return parse(values, StoredCard, f"{path}, {_WHAT},", _ADVICE)


def load_weights(
    module: nn.Module, tensors: Mapping[str, Tensor], source: Path, option: str = "--model"
) -> None:
    """Load named tensors into a module; names and shapes must match exactly.

    Args:
        module: changed in place, to float32.
        tensors: name -> values.
        source: their file, for messages.
        option: by which the user names the network, likewise.

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
        why += [f"{len(extra)} are not in the network, e.g. {extra[0]}"] if extra else []
        why += wrong[:1]
        raise ZskdError(
            f"{source} belongs to another architecture ({'; '.join(why)}): name the right one with {option}"
        )
    for name, tensor in tensors.items():
        kinds = {(one.is_floating_point(), one.is_complex()) for one in (tensor, own[name])}
        if len(kinds) > 1:
            raise ZskdError(f"{source}: {name} holds {tensor.dtype}, and the network needs {own[name].dtype}")
    check_finite(tensors, source)
    set_state(module.float(), tensors)


def check_finite(tensors: Mapping[str, Tensor], source: Path) -> None:
    """Check that weights are finite numbers, also in float32.

    Args:
        tensors: name -> values.
        source: their file, for messages.

    Raises:
        ZskdError: a value is not.
    """
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ZskdError(f"{source} holds values that are not finite in {name}: use another file")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise ZskdError(f"{source} holds values in {name} that float32 cannot hold: use another file")
