"""YAML files of settings: reading and merging."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as short
from typing import Any

import yaml

from zskd.config.checks import suggestion
from zskd.core.errors import ZskdError, has_hidden, readable_errors
from zskd.core.reading import one_line_errors, read_bytes

_READER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The reader in C is ten times as fast; a PyYAML that was built without it has the other one only."""
_DEEPEST = 50
"""Levels of lists and groups in a file."""
_MOST = 20_000
"""Values of a file, those that it names again (`*name`) counted each time."""
_LARGEST, _LONGEST = 1 << 20, 2000
"""Bytes of a file, and characters of one text in it; numbers of many digits take long to read."""

_SIXTIES = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
"""Numbers as YAML 1.1 writes times, 1:30:00: few who write one mean 5400."""


class _Loader(_READER):  # type: ignore[misc]
    """Reads plain values: a key that stands twice, and a value of another kind, is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a group of values.

        Raises:
            ValueError: a key stands twice, or is no text and no number.
        """
        named = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in named]
        for number, key in enumerate(keys):
            _check_plain(key)
            if not isinstance(key, str | int | float):
                raise ValueError(f"the key {short(key)} is no text and no number")
            if key in keys[:number]:
                raise ValueError(f"{short(key)} stands twice")
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values of both; where both have a value, that of `above`."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def read_yaml(name: str, folder: Path, kind: str) -> dict[str, Any]:
    """Read a YAML file of the package by name, or the user's own by path.

    Args:
        name: name of a file in `folder`, without its suffix, or a path.
        folder: a folder of the package.
        kind: kind of the file, for messages: "recipe", "experiment".

    Raises:
        ZskdError: there is no such file, or it is not a YAML mapping.
    """
    if name in yaml_names(folder):
        return parse_yaml((folder / f"{name}.yaml").read_text("utf-8"), name)
    path = Path(name)
    with readable_errors(path, "read"):  # a name that is too long for one
        found = path.is_file()
    if not found:
        raise ZskdError(
            f"there is no {kind} {name!r}{suggestion(name, yaml_names(folder))}; or name a YAML file"
        )
    return parse_yaml(read_bytes(path, f"a file of {kind}s", _LARGEST), name)


def parse_yaml(text: str | bytes, source: str) -> dict[str, Any]:
    """Return the mapping in a YAML text: texts, numbers, true, false, null, lists and groups of them.

    Args:
        text: the YAML, in UTF-8.
        source: the file, for messages.

    Raises:
        ZskdError: the text is not such a mapping, a key stands twice, or names (`&a`, `*a`) unfold into
            more than a file of settings can hold.
    """
    with one_line_errors(f"{source} is no YAML file of settings", "correct it"):
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        _check_structure(text)
        values = yaml.load(text, _Loader)
        _check_plain(values)
    if not isinstance(values, dict):
        raise ZskdError(f"{source} must hold settings as `key: value`")
    return values


def _check_structure(yaml_text: str) -> None:
    """Check a text before values are made of it.

    Raises:
        ValueError: it names a type, has too many levels or a long text, or unfolds into too many values.
        YAMLError: it is no YAML.
    """
    values, begun = 0, list[tuple[str | None, int]]()
    sizes: dict[str | None, int] = {}
    for event in yaml.parse(yaml_text, _READER):
        anchor, tag, text = (getattr(event, key, None) for key in ("anchor", "tag", "value"))
        if tag is not None:
            raise ValueError(f"it names a type, {short(tag)}: write the value alone")
        if len(text or "") > _LONGEST:
            raise ValueError(f"the text {short(text)} is too long")
        if isinstance(event, yaml.CollectionEndEvent):
            name, before = begun.pop()
            sizes[name] = values - before
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise ValueError(f"{short(anchor)} is inside of itself, or nowhere")
            values += sizes[anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            begun.append((anchor, values))
        elif isinstance(event, yaml.ScalarEvent):
            sizes[anchor] = 1
            if event.implicit[0] and _SIXTIES.fullmatch(event.value):
                raise ValueError(
                    f"{short(event.value)} is a number to the base 60: write it in quotes, or as usual"
                )
        values += isinstance(event, yaml.NodeEvent)
        if len(begun) > _DEEPEST or values > _MOST:
            raise ValueError(f"it has more than {_MOST:,} values, or more than {_DEEPEST} levels")


def _check_plain(value: Any, levels: int = _DEEPEST) -> None:
    if not levels:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict | list):
        for one in [*value.keys(), *value.values()] if isinstance(value, dict) else value:
            _check_plain(one, levels - 1)
    elif isinstance(value, str) and has_hidden(value, but="\n\t"):
        raise ValueError(f"the text {short(value)} holds control characters")
    elif isinstance(value, int) and value.bit_length() > 64:
        raise ValueError(f"an integer of {value.bit_length():,} bits is larger than any setting can be")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"{short(value)} is no text and no number: write it in quotes")


def yaml_names(folder: Path) -> list[str]:
    """Return the names of the YAML files in a folder, without suffix, sorted."""
    return sorted(file.stem for file in folder.glob("*.yaml"))
