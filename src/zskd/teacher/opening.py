"""Open a teacher, whatever it is: a checkpoint folder, weights of another program, or a network by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zskd.config.training import DEFAULT_NETWORK
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.models.checkpoint import CARD, Card, Origin, load_checkpoint, load_weights
from zskd.models.classifier import Classifier
from zskd.teacher.golden import check_golden
from zskd.teacher.named.facts import Found, Given, settle
from zskd.teacher.named.source import Source, parse_source
from zskd.teacher.weights.matching import Fitted, fit_weights
from zskd.teacher.weights.reading import WeightsFile, read_weights


def open_teacher(
    source: str | Path,
    *,
    model: str | None = None,
    weights: str | None = None,
    shape: tuple[int, int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    box: tuple[float, float] = (0.0, 1.0),
    class_names: tuple[str, ...] | None = None,
    head: str | None = None,
    golden: Path | None = None,
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
            source; a checkpoint folder has its own.
        mean: subtracted from pixels in [0, 1], one value or one per channel.
        std: divides them then.
        box: least and largest value of a valid pixel.
        class_names: one per class.
        head: dotted name of the last linear layer, if it cannot be found.
        golden: file with `inputs` (N, C, H, W) in [0, 1] and `logits` (N, K) of the original program.

    Returns:
        The classifier, frozen, and its card: `origin.taken` says in one line what was read, and
        `origin.facts` where shape, mean, std and class names come from.

    Raises:
        ZskdError: no such file or network, unreadable or non-finite weights, weights of another network, or
            golden pairs that disagree.
    """
    parsed = parse_source(str(source))
    if parsed.kind == "path" and (Path(parsed.name) / CARD).is_file():
        if weights is not None:
            raise ZskdError(f"{source} is a checkpoint of zskd with one network: leave out --weights")
        classifier, card = load_checkpoint(Path(parsed.name), model=model)
        checked = check_golden(classifier.freeze(), golden) if golden else card.golden
        return classifier.freeze(), Card(architecture=card.architecture, origin=card.origin, golden=checked)
    if parsed.kind == "path" and not Path(parsed.name).exists():
        raise ZskdError(
            f"there is no file or folder {parsed.name}: give a checkpoint, weights, or a name such as "
            "timm:resnet18 or my_net.py:build@weights.pt (docs/your-teacher.md)"
        )
    given = Given(
        shape=shape, mean=mean, std=std, box=box, class_names=class_names, head=head, weights=weights
    )
    return _open(_with_weights(parsed, model), given, golden)


def _with_weights(source: Source, model: str | None) -> Source:
    """Join a path to weights with the network that `--model` names; other sources name their own."""
    if source.kind != "path":
        if model is not None and model != source.name:
            raise ZskdError(f"{source.text} names its network: leave out --model {model}")
        return source
    network = parse_source(model or DEFAULT_NETWORK)
    if network.kind in ("path", "onnx") or network.weights is not None:
        raise ZskdError(
            f"--model {model} is no network: give a built-in name, timm:NAME, torchvision:NAME or "
            "file.py:factory, and the weights as the source"
        )
    return replace(network, weights=Path(source.name))


def _open(source: Source, given: Given, golden: Path | None) -> tuple[Classifier, Card]:
    found = find_network(source, given)
    settled = settle(found.facts, given)
    file, fitted = found.file, None
    if source.weights is not None:
        file = file or read_weights(source.weights)
        fitted = fit_weights(found.module, file, given.weights)
        load_weights(found.module, fitted.tensors, file.path)
    elif given.weights is not None:
        raise ZskdError(f"{source.text} has no file of weights: leave out --weights {given.weights}")
    classifier = Classifier(
        found.module, spec=settled.spec, class_names=settled.class_names, head=given.head, copy=False
    ).freeze()
    classifier.architecture = found.architecture
    checked = check_golden(classifier, golden, epsilon=fitted.epsilon if fitted else 0.0) if golden else None
    origin = _origin(source, file, fitted, settled.origins)
    return classifier, Card(architecture=found.architecture, origin=origin, golden=checked)


def find_network(source: Source, given: Given) -> Found:
    """Find the network of a source; a library is imported only when it is named.

    Args:
        source: names a network; not of the kind `path`.
        given: what the user tells.

    Raises:
        ZskdError: as the `find` of each library does.
    """
    match source.kind:
        case "timm":
            from zskd.teacher.named import timm

            return timm.find(source)
        case "torchvision":
            from zskd.teacher.named import torchvision

            return torchvision.find(source)
        case "hf":
            from zskd.teacher.named import huggingface

            return huggingface.find(source)
        case "onnx":
            from zskd.teacher.named import onnx

            return onnx.find(source, given.shape)
        case "code":
            from zskd.teacher.named import code

            return code.find(source)
        case "built-in":
            from zskd.teacher.named import builtin

            return builtin.find(source, given)
    raise ZskdError(f"{source.text} is a path and no name of a network: say which network it belongs to")


def _origin(source: Source, file: WeightsFile | None, fitted: Fitted | None, facts: dict[str, str]) -> Origin:
    values: dict[str, object] = {"how": "imported", "facts": facts}
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
