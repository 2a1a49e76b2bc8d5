"""YAML files of settings: reading and merging."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from zskd.config.checks import suggestion
from zskd.core.errors import ZskdError, one_line

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The reader in C is ten times as fast; a PyYAML that was built without it has the other one only."""


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
    if not path.is_file():
        raise ZskdError(
            f"there is no {kind} {name!r}{suggestion(name, yaml_names(folder))}; or name a YAML file"
        )
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), name)
    except (OSError, UnicodeDecodeError) as error:
        raise ZskdError(f"cannot read {path}: {one_line(error)}") from error


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Return the mapping in a YAML text.

    Args:
        text: the YAML.
        source: the file, for messages.

    Raises:
        ZskdError: the text is not a YAML mapping.
    """
    try:
        values = yaml.load(text, _LOADER)
    except yaml.YAMLError as error:
        raise ZskdError(f"{source} is no YAML file: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise ZskdError(f"{source} must hold settings as `key: value`")
    return values


def yaml_names(folder: Path) -> list[str]:
    """Return the names of the YAML files in a folder, without suffix, sorted."""
    return sorted(file.stem for file in folder.glob("*.yaml"))
