"""YAML files of settings: reading and merging."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from zskd.config.checks import suggestion
from zskd.core.errors import ZskdError, one_line


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values where those of `above` win."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def read_yaml(name: str, folder: Path, kind: str) -> dict[str, Any]:
    """Read a file of the package by its name, or one of the user's by its path.

    Args:
        name: of a file in `folder`, without its ending, or a path.
        folder: of the package.
        kind: what it is, for messages: "recipe", "experiment".

    Raises:
        ZskdError: there is none, or it is no YAML file.
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
    """Return the settings that a YAML text holds.

    Raises:
        ZskdError: it is no YAML, or no mapping.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ZskdError(f"{source} is no YAML file: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise ZskdError(f"{source} must hold settings as `key: value`")
    return values


def yaml_names(folder: Path) -> list[str]:
    """Return the names of the YAML files in a folder, without their ending."""
    return sorted(file.stem for file in folder.glob("*.yaml"))
