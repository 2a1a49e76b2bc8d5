"""What a user types for a teacher: `[KIND:]NAME[(arguments)][@weights]`, or a path."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from zskd.config.registry import ARCHITECTURES
from zskd.core.code import parse_call
from zskd.core.errors import ZskdError
from zskd.core.reading import read_json
from zskd.models.checkpoint import CARD

Kind = Literal["timm", "torchvision", "hf", "onnx", "code", "built-in", "path"]

_CODE = re.compile(
    r"(?P<name>(?:.+\.py|[A-Za-z_][\w.]*):[A-Za-z_][\w.]*)(?P<call>\(.*\))?(?:@(?P<weights>.+))?", re.DOTALL
)
"""The user's own code. An @ in the folders of its file is no separator."""
_NAME = re.compile(r"(?P<name>[^(@]+)(?P<call>\(.*\))?(?:@(?P<weights>.+))?", re.DOTALL)
_FOLDER = ("local-dir:", "hf-hub:", "hf_hub:")
"""Prefixes of names of timm that come with their weights."""
EXPORTED = "zskd"
"""Key of a `config.json` that `zskd export --to hf` wrote."""
CONFIG = "config.json"
CONFIG_WHAT = "the configuration of a network"


@dataclass(frozen=True)
class Source:
    """A teacher as the user named it."""

    text: str
    """What was typed."""
    kind: Kind
    """`path`: a checkpoint folder, or weights of a network that is named elsewhere."""
    name: str
    """Name in the library, path of a file or folder, or `file.py:factory`."""
    arguments: dict[str, Any]
    """Arguments in parentheses."""
    weights: Path | None = None
    """File of weights behind the @."""


def is_there(path: str | Path) -> bool:
    """Return whether there is such a file or folder, also of a text that is too long for a name."""
    return os.path.exists(path)  # noqa: PTH110  Path.exists() fails for such a text


def parse_source(text: str) -> Source:
    """Return the parts of what a user typed for a teacher.

    Args:
        text: `timm:NAME`, `timm:hf-hub:OWNER/NAME`, `timm:local-dir:FOLDER`, `torchvision:NAME`, `hf:FOLDER`,
            `onnx:FILE`, `file.py:factory`, `package.module:factory`, each with `(key=value, …)` and
            `@weights` where they make sense; a built-in name, `resnet20@net.th`; or a path. A path to an
            `.onnx` file and a folder of transformers or timm need no prefix.

    Raises:
        ZskdError: the text cannot be read, or arguments or weights stand where none belong.
    """
    kind, colon, rest = text.partition(":")
    if is_there(text):
        return _path(text)
    if not colon:
        return parse_builtin(text) or _path(text)
    match kind:
        case "timm" if rest.startswith(_FOLDER):
            return Source(text, "timm", *parse_call(rest))
        case "timm" | "torchvision":
            return _named(text, kind, _NAME.fullmatch(rest))
        case "hf":
            folder, at_sign, weights = (rest, "", "") if is_there(rest) else rest.partition("@")
            return Source(text, "hf", folder, {}, Path(weights) if at_sign else None)
        case "onnx":
            return Source(text, "onnx", rest, {})
    return _named(text, "code", _CODE.fullmatch(text))


def _named(text: str, kind: Kind, found: re.Match[str] | None) -> Source:
    if found is None:
        raise ZskdError(
            f"{text!r} cannot be read: write timm:NAME, torchvision:NAME, hf:FOLDER, onnx:FILE or "
            "file.py:factory, with (key=value, …) and @weights.pth behind it where needed"
        )
    name, weights = found["name"], found["weights"]
    arguments = parse_call(f"{name}{found['call'] or ''}")[1]
    return Source(text, kind, name, arguments, Path(weights) if weights else None)


def parse_builtin(text: str) -> Source | None:
    """Return the source of a built-in network, with its weights; None for another name.

    Whether there is a file of this name is not asked.
    """
    found = _NAME.fullmatch(text)
    if found is None or not ARCHITECTURES.knows(found["name"]):
        return None
    return _named(text, "built-in", found)


def read_config(folder: Path) -> dict[str, Any]:
    """Return what the `config.json` of a folder holds, which may be another program's.

    Raises:
        ZskdError: it is missing or damaged.
    """
    return read_json(folder / CONFIG, CONFIG_WHAT, "download or export it again")


def _path(text: str) -> Source:
    """Return the source of a path without prefix. A script may write a `config.json` of its own."""
    path = Path(text)
    if path.suffix == ".onnx":
        return Source(text, "onnx", text, {})
    if is_there(path / CONFIG) and not is_there(path / CARD):
        config = read_config(path)
        if EXPORTED in config and "pretrained_cfg" not in config:  # weights beside it
            found = parse_builtin(str(config.get("architecture")))
            return replace(found, text=text, weights=path) if found else Source(text, "path", text, {})
        if "pretrained_cfg" in config or ("architecture" in config and "model_type" not in config):
            return Source(text, "timm", f"local-dir:{text}", {})
        if "model_type" in config:
            return Source(text, "hf", text, {})
    return Source(text, "path", text, {})
