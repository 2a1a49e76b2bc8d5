"""Open a teacher, whatever it is: a checkpoint folder, weights of another program, or a network by name."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from zskd.config.training import DEFAULT_NETWORK
from zskd.core.code import format_call
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.models.checkpoint import (
    CARD,
    Card,
    Origin,
    StoredCard,
    load_checkpoint,
    load_weights,
    read_card,
)
from zskd.models.classifier import Classifier
from zskd.models.libraries.transformers import ReversedChannels
from zskd.teacher.golden import check_golden
from zskd.teacher.named.exported import exported_facts
from zskd.teacher.named.facts import Facts, Found, Given, settle
from zskd.teacher.named.source import Kind, Source, is_there, parse_builtin, parse_source
from zskd.teacher.weights.matching import Fitted, fit_weights
from zskd.teacher.weights.reading import WeightsFile, read_weights
from zskd.teacher.weights.refusal import Advice

_FINDERS: Mapping[Kind, str] = {
    "timm": "timm",
    "torchvision": "torchvision",
    "hf": "huggingface",
    "onnx": "onnx",
    "code": "code",
    "built-in": "builtin",
}
"""Module of `named/` whose `find(source, given)` finds the network of a kind of source."""
_MOST_SHOWN = 6
"""Values of one option that a message shows."""


def open_teacher(
    source: str | Path,
    *,
    model: str | None = None,
    weights: str | None = None,
    shape: tuple[int, int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    box: tuple[float, float] | None = None,
    class_names: tuple[str, ...] | None = None,
    head: str | None = None,
    golden: str | Path | None = None,
    otherwise: Facts | None = None,
) -> tuple[Classifier, Card]:
    """Open a trained network and check it. Nothing that a file names is imported or run.

    Args:
        source: a checkpoint folder of this package; weights of another program, in any format of
            `zskd.teacher.weights`; or `timm:NAME`, `torchvision:NAME`, `hf:FOLDER`, `onnx:FILE`,
            `file.py:factory`, `package.module:factory` or a built-in name, each with `(key=value, …)` and
            `@WEIGHTS` where needed.
        model: network of the weights, in the same notation; `lenet5` when absent. For a checkpoint of the
            user's own code: the factory that may run.
        weights: place of the copy to take, in a file with several; absent: `fit_weights` chooses.
        shape: channels, height and width of its input. This and the next values hold against those of the
            source; those of a checkpoint folder they must equal.
        mean: subtracted from pixels in [0, 1], one value or one per channel.
        std: divides them then.
        box: least and largest value of a valid pixel; 0 and 1 where neither this nor the source tells it.
        class_names: one per class.
        head: dotted name of the last linear layer, if it cannot be found.
        golden: file with `inputs` (N, C, H, W) in [0, 1] and `logits` (N, K) of the original program.
        otherwise: shape, mean, std, box and class names where neither the user nor the source tells them.

    Returns:
        The classifier, frozen, and its card: `origin.taken` says in one line what was read, and
        `origin.facts` where shape, mean, std and class names come from.

    Raises:
        ZskdError: no such file or network, unreadable or non-finite weights, weights of another network,
            other values than a checkpoint has, or golden pairs that disagree.
    """
    parsed, golden = parse_source(str(source)), Path(golden) if golden else None
    given = Given(
        shape=shape,
        mean=mean,
        std=std,
        box=box,
        class_names=class_names,
        head=head,
        weights=weights,
        otherwise=otherwise or Facts(),
    )
    if parsed.kind == "path" and is_there(Path(parsed.name) / CARD):
        if weights is not None:
            raise ZskdError(f"{source} is a checkpoint of zskd with one network: leave out --weights")
        check_model(model, parsed.name)
        classifier, card = load_checkpoint(Path(parsed.name), model=model)
        _check_given(source, given, card)
        epsilon = card.origin.epsilon or 0.0
        checked = check_golden(classifier.freeze(), golden, epsilon=epsilon) if golden else card.golden
        return classifier.freeze(), Card(architecture=card.architecture, origin=card.origin, golden=checked)
    if parsed.kind == "path" and not is_there(parsed.name):
        raise ZskdError(
            f"there is no file or folder {parsed.name}: give a checkpoint, weights, or a name such as "
            "timm:resnet18 or my_net.py:build@weights.pt (docs/your-teacher.md)"
        )
    if (exported := exported_facts(parsed.weights or Path(source))) is not None:
        given = replace(given, otherwise=exported)
        if parsed.kind == "path" and model is None:
            raise ZskdError(
                f"{source} does not tell how its network is built: open its checkpoint folder, export that "
                "with --to onnx and open the file, or name the network of a library or your own code with "
                "--model"
            )
    other = "name the right one " + ("with --model" if parsed.kind == "path" else "before the @")
    parsed = with_weights(parsed, model)
    return _open(parsed, given, golden, other)


def check_model(model: str | None, *sources: str | Path, option: str = "--model") -> None:
    """Check that a network that the user names is that of one of some sources, or code of the user's own.

    Commands name that code also for a checkpoint beside it, which needs none.

    Args:
        model: as it was typed; None: nothing is named.
        sources: what it is named for.
        option: by which it is named.

    Raises:
        ZskdError: each source has another network.
    """
    if model is None:
        return
    named, own = parse_builtin(model) or parse_source(model), [_network_of(source) for source in sources]
    titles = (format_call(named.name, named.arguments), f"{named.kind}:{named.name}")
    if named.kind == "code" or any(title is None or title in titles for title in own):
        return
    if named.kind == "hf" and any("transformers:" in str(title) for title in own):  # the card has no folder
        return
    has = f"is a checkpoint of {own[0]}" if is_there(Path(sources[0]) / CARD) else "names its network"
    raise ZskdError(f"{sources[0]} {has}: leave out {option} {model}")


def _network_of(source: str | Path) -> str | None:
    """Return the name of the network of a source; None where the user names it."""
    if is_there(Path(source) / CARD):
        return read_card(Path(source)).architecture.title
    parsed = parse_source(str(source))
    return None if parsed.kind == "path" else f"{parsed.kind}:{parsed.name}"


def _check_given(source: str | Path, given: Given, card: StoredCard) -> None:
    """Check that what the user tells of a checkpoint is what its card says.

    Raises:
        ZskdError: it is something else.
    """
    own, channels = card.input, card.input.shape[0]
    values = {"shape": own.shape, "mean": own.mean, "std": own.std, "box": own.box}
    for name, held in {**values, "class_names": card.class_names, "head": card.head}.items():
        told = getattr(given, name)
        if told is not None and _each(told, channels) != _each(held, channels):
            has = "no named head" if held is None else f"{name.replace('_', ' ')} {_typed(held)}"
            option = f"--{name.replace('_', '-')}"
            raise ZskdError(
                f"{source} is a checkpoint with {has}: import its weights again with {option} "
                f"{_typed(told)}, or leave out {option}"
            )


def _each(value: Any, channels: int) -> Any:
    """Return a value that may be told once for all channels as if it had been told for each."""
    if isinstance(value, list | tuple):
        return tuple(value) * (channels if len(value) == 1 else 1)
    return value


def _typed(value: Any) -> str:
    """Return a value as a user types it, and of many only the first."""
    parts = [value] if isinstance(value, str) else value
    first = shlex.join(one if isinstance(one, str) else f"{one:.9g}" for one in parts[:_MOST_SHOWN])
    return first + " …" * (len(parts) > _MOST_SHOWN)


def with_weights(source: Source, model: str | None) -> Source:
    """Join a path to weights with the network that `--model` names; other sources name their own.

    Raises:
        ZskdError: the source names its network and another one is named, or what is named is no network.
    """
    if source.kind != "path":
        if model is not None and model != source.name:
            raise ZskdError(f"{source.text} names its network: leave out --model {model}")
        return source
    name = model or DEFAULT_NETWORK
    network = parse_builtin(name) or parse_source(name)  # a file may have the name of a network
    if network.kind in ("path", "onnx") or network.weights is not None:
        raise ZskdError(
            f"--model {model} is no network: give a built-in name, timm:NAME, torchvision:NAME or "
            "file.py:factory, and the weights as the source"
        )
    return replace(network, weights=Path(source.name))


def _open(source: Source, given: Given, golden: Path | None, other: str) -> tuple[Classifier, Card]:
    found = find_network(source, given)
    settled = settle(found.facts, given)
    file, fitted = found.file, None
    if source.weights is not None:
        file = file or read_weights(source.weights)
        # the names in a file are those inside of our own wrapper
        own = found.module.network if isinstance(found.module, ReversedChannels) else found.module
        size = "tell the size of its images with --shape" if source.kind == "built-in" else None
        fitted = fit_weights(own, file, given.weights, Advice(other, partial(_for, source, given), size))
        load_weights(own, fitted.tensors, file.path)
    elif given.weights is not None:
        raise ZskdError(f"{source.text} has no file of weights: leave out --weights {given.weights}")
    classifier = Classifier(
        found.module, spec=settled.spec, class_names=settled.class_names, head=given.head, copy=False
    ).freeze()
    classifier.architecture = found.architecture
    epsilon = fitted.epsilon if fitted else found.epsilon
    checked = check_golden(classifier, golden, epsilon=epsilon) if golden else None
    origin = _origin(source, file, fitted, settled.origins, epsilon)
    return classifier, Card(architecture=found.architecture, origin=origin, golden=checked)


def _for(source: Source, given: Given, classes: int) -> str:
    """Return how the user names the network of a source for another number of classes."""
    if source.kind in ("timm", "torchvision"):
        arguments = source.arguments | {"num_classes": classes}
        return f"write {format_call(f'{source.kind}:{source.name}', arguments)}"
    if source.kind == "built-in" and given.class_names is not None:
        return f"give {max(2, classes)} names with --class-names instead of {len(given.class_names)}, or none"
    return f"name a network for {classes} classes"


def find_network(source: Source, given: Given) -> Found:
    """Find the network of a source; a library is imported only when it is named.

    Args:
        source: names a network; not of the kind `path`.
        given: what the user tells.

    Raises:
        ZskdError: as the `find` of each library does.
    """
    if source.kind not in _FINDERS:
        raise ZskdError(f"{source.text} is a path and no name of a network: say which network it belongs to")
    module = import_module(f"zskd.teacher.named.{_FINDERS[source.kind]}")
    found: Found = module.find(source, given)
    return found


def _origin(
    source: Source, file: WeightsFile | None, fitted: Fitted | None, facts: dict[str, str], epsilon: float
) -> Origin:
    values: dict[str, object] = {"how": "imported", "facts": facts}
    if epsilon > torch.finfo(torch.float32).eps:
        values["epsilon"] = epsilon
    if source.kind not in ("built-in", "code"):
        values["source"] = source.text
    if file is not None and fitted is not None:
        values |= {
            "file": file.path.absolute().name,
            "file_sha256": file.sha256(),
            "taken": fitted.summary,
        }
    elif source.kind == "onnx":
        values |= {"file": Path(source.name).name, "file_sha256": sha256_file(Path(source.name))}
    return Origin.model_validate(values)
