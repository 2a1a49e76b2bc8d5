"""Why a file does not fit a network, in one true line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

from zskd.core.errors import ZskdError
from zskd.teacher.weights.fits import Near, Table, nearest
from zskd.teacher.weights.names import Wanted
from zskd.teacher.weights.reading import WeightsFile

_ADVICE = "save the weights in the program that made it: torch.save(model.state_dict(), 'teacher.pt')"
_LONGEST = 80
_MOST_KEYS = 8
_QUANTISED = re.compile(r"_packed_params|(?:^|\.)zero_point$|PackedParams|\.qweight$")
_OBSERVED = re.compile(r"activation_post_process|fake_quant")
_OPTIMISER = re.compile(
    r"^(?:exp_avg|exp_avg_sq|max_exp_avg_sq|momentum_buffer|square_avg|acc_delta|step|sum)$"
)
_ADAPTER = re.compile(r"lora_[AB]")
_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a ResNet of Hugging Face", (r"resnet\.embedder\.", r"resnet\.encoder\.stages\.")),
    ("a vision transformer of Hugging Face", (r"(?:vit|deit)\.encoder\.layer\.\d", r"patch_embeddings")),
    ("a vision transformer of torchvision", (r"encoder\.layers\.encoder_layer_\d", r"conv_proj\.")),
    ("a Swin transformer", (r"layers\.\d+\.blocks\.\d+\.attn\.qkv", r"relative_position_bias_table")),
    ("a vision transformer of timm", (r"blocks\.\d+\.attn\.qkv\.", r"patch_embed\.proj\.")),
    ("a ConvNeXt of timm", (r"stages\.\d+\.blocks\.\d+\.conv_dw",)),
    ("an EfficientNet or MobileNetV3 of timm", (r"conv_stem\.", r"blocks\.\d+\.\d+\.")),
    ("a DenseNet", (r"features\.denseblock\d",)),
    ("a GoogLeNet or Inception of torchvision", (r"(?:inception\d|Mixed_\d)",)),
    ("a SqueezeNet of torchvision", (r"features\.\d+\.squeeze\.",)),
    ("a ShuffleNet of torchvision", (r"stage2\.0\.branch2\.",)),
    (
        "a MobileNet or EfficientNet of torchvision",
        (r"features\.\d+\.0\.weight", r"features\.\d+\..*block|features\.\d+\.conv\.", r"classifier\.\d+\."),
    ),
    ("an AlexNet or VGG of torchvision", (r"features\.0\.weight", r"classifier\.6\.weight")),
    ("a wide ResNet", (r"block1\.layer\.0\.conv1", r"block3\.layer\.0\.conv1")),
    ("a ResNet for CIFAR", (r"layer3\.0\.conv1\.", r"(?:^|\.)(?:linear|fc)\.weight")),
    ("a language model", (r"(?:^|\.)(?:lm_head|word_embeddings|embed_tokens|wte)\.",)),
)
"""Name, and patterns that all occur in names of its tensors; the first that agrees is told."""
_RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "18",
    ((3, 4, 6, 3), False): "34",
    ((3, 4, 6, 3), True): "50",
    ((3, 4, 23, 3), True): "101",
    ((3, 8, 36, 3), True): "152",
}
"""Blocks of each layer, and whether they have three convolutions -> number of layers."""


@dataclass(frozen=True)
class Advice:
    """How the user names another network, for the end of a message."""

    other: str = "name the right one with --model"
    """One of another architecture."""
    classes: Callable[[int], str] = "build the network for {} classes".format
    """The same for another number of classes."""
    size: str | None = None
    """The same for images of another size; None: no layer of the network depends on it."""


def refuse(file: WeightsFile, wanted: Wanted, weights: str | None, advice: Advice) -> NoReturn:
    """Say why no copy fits.

    Raises:
        ZskdError: always.
    """
    keys = list(file.candidates)
    if weights is not None and weights not in [key or "." for key in keys]:
        raise ZskdError(f"{file.path} holds no weights {label(weights)}: there are {_keys(keys)}")
    chosen = [key for key in keys if weights is None or (key or ".") == weights]
    names = [name for key in chosen for name in file.candidates[key]]
    why = _no_network(file, chosen, names)
    if why:
        raise ZskdError(f"{file.path} {why}")
    near = nearest((Table(key, file.candidates[key]) for key in chosen), wanted)
    distance = _distance(near, wanted, len(names))
    if near is not None and (classes := _classes(near, wanted)) is not None:
        raise ZskdError(f"{file.path} is for {classes} classes ({distance}): {advice.classes(classes)}")
    if near is not None and advice.size is not None and _is_of_other_images(near, wanted):
        raise ZskdError(f"{file.path} is for images of another size ({distance}): {advice.size}")
    looks = _family(names)
    raise ZskdError(
        f"{file.path} belongs to another architecture ({distance})"
        f"{f'; its names look like {looks}' if looks else ''}: {advice.other}"
    )


def _classes(near: Near, wanted: Wanted) -> int | None:
    """Return the number of classes of a file that differs from the network in this alone; None: in others."""
    if near.missing or near.extra or list(wanted.plain)[-1] not in near.wrong:
        return None
    pairs = [(near.table.tensors[name].shape, wanted.shape(plain)) for plain, name in near.wrong.items()]
    same = all(one and other and one[1:] == other[1:] for one, other in pairs)
    rows = {(one[0], other[0]) for one, other in pairs} if same else set()
    return next(iter(rows))[0] if len(rows) == 1 else None


def _is_of_other_images(near: Near, wanted: Wanted) -> bool:
    """Whether a file differs from the network in the number of inputs of one linear layer alone."""
    if near.missing or near.extra or len(near.wrong) != 1:
        return False
    ((plain, name),) = near.wrong.items()
    one, other = near.table.tensors[name].shape, wanted.shape(plain)
    return len(one) == len(other) == 2 and one[0] == other[0]


def _no_network(file: WeightsFile, keys: list[str], names: list[str]) -> str | None:
    """Return what else the file is, for the end of "FILE …"."""
    stored = [one for key in keys for one in file.candidates[key].values()]
    if any(_OBSERVED.search(name) for name in names):
        return "was prepared for quantisation (it holds observers): give the network before that"
    if any(_QUANTISED.search(name) for name in (*names, *file.names)) or any(
        one.obstacle == "is quantised" for one in stored
    ):
        return "holds a quantised network, whose weights are integers: give the network before quantisation"
    if any(_ADAPTER.search(name) for name in names):
        return "holds an adapter (LoRA), not a network: merge it into its network first"
    if not names and file.unnamed:
        return (
            f"holds {file.unnamed} tensors in a list, without names, so their layers are unknown: {_ADVICE}"
        )
    if not names and file.names:
        named = ", ".join(label(name, quote=False) for name in file.names[:3])
        return f"holds no named tensors. It names code, which was not run ({named}): {_ADVICE}"
    if not names:
        return f"holds no named tensors ({file.kind}): {_ADVICE}"
    if all(_OPTIMISER.match(name) for name in names) or all("optim" in key.lower() for key in keys):
        return f"holds the state of an optimiser, not a network: {_ADVICE}"
    if file.kind == "NumPy archive" and all(re.fullmatch(r"arr_\d+", name) for name in names):
        return "holds arrays without names: save them with numpy.savez(file, **named_arrays)"
    return None


def _distance(near: Near | None, wanted: Wanted, held: int) -> str:
    """Say how much of the network is there, the first differences, and what else there is."""
    total = len(wanted.plain)
    if near is None:
        first = next(iter(wanted.plain), "")
        return f"none of the network's {total} tensors is among its {held}, e.g. {label(first, quote=False)}"
    place = f" in {label(near.table.key)}" if near.table.key else ""
    told = [f"{len(near.right)} of the network's {total} tensors are there{place}"] if near.right else []
    if near.missing:
        told.append(f"{len(near.missing)} tensors are missing, e.g. {label(near.missing[0], quote=False)}")
    if near.extra:
        told.append(f"{len(near.extra)} are not in the network, e.g. {label(near.extra[0], quote=False)}")
    for plain, name in list(near.wrong.items())[:1]:
        shape = near.table.tensors[name].shape
        told.append(
            f"{label(plain, quote=False)} is {shape} in the file and {wanted.shape(plain)} in the network"
        )
    return "; ".join(told)


def _family(names: Iterable[str]) -> str | None:
    """Return the well-known family whose names these are."""
    joined = "\n".join(names)
    blocks = tuple(
        len(set(re.findall(rf"(?:^|\.)layer{n}\.(\d+)\.conv1\.", joined, re.MULTILINE))) for n in range(1, 5)
    )
    number = _RESNETS.get((blocks, ".conv3." in joined))
    last = re.search(r"(?:^|\.)fc\.", joined, re.MULTILINE)
    if number and last and ".shortcut." not in joined:
        return f"a ResNet-{number} of torchvision or timm"
    for family, patterns in _FAMILIES:
        if all(re.search(pattern, joined, re.MULTILINE) for pattern in patterns):
            return family
    return None


def _keys(keys: list[str]) -> str:
    shown = ", ".join(label(key or ".") for key in keys[:_MOST_KEYS]) or "none"
    return shown + (f" and {len(keys) - _MOST_KEYS} more" if len(keys) > _MOST_KEYS else "")


def label(name: str, *, quote: bool = True) -> str:
    """Return a name from a file for a message: short, and without control characters."""
    short = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    shown = repr(short)
    return shown if quote else shown[1:-1]
