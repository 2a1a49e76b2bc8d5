"""Presets: what a recipe starts from.

The preset `default` is the defaults of the settings and has no file. A file of `recipes/presets` holds only
what its method changes, on top of `neutral.yaml`: there every setting of targets, synthesis and distillation
has the value at which it does nothing. A group that a preset leaves out has its defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zskd.config.checks import suggestion
from zskd.config.yaml import merge, parse_yaml, yaml_names
from zskd.core.errors import ZskdError

RECIPES = Path(__file__).parents[1] / "recipes"
DEFAULT_PRESET = "default"
RATES = "rates"
"""Key of a preset's table of settings that belong to one rate each."""
_PRESETS = RECIPES / "presets"


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return [DEFAULT_PRESET, *yaml_names(_PRESETS)]


def read_preset(name: str) -> dict[str, Any]:
    """Return all values of a preset, nested: what it changes, on the neutral base.

    Raises:
        ZskdError: there is none of that name.
    """
    if name == DEFAULT_PRESET:
        return {}
    changed, neutral = preset_changes(name), neutral_values()
    return merge({group: neutral[group] for group in changed if group in neutral}, changed)


def preset_changes(name: str) -> dict[str, Any]:
    """Return what a preset's file holds.

    Raises:
        ZskdError: there is none of that name.
    """
    if name not in preset_names():
        raise ZskdError(f"unknown preset {name!r}{suggestion(name, preset_names())}")
    return parse_yaml((_PRESETS / f"{name}.yaml").read_text("utf-8"), name)


def neutral_values() -> Mapping[str, Any]:
    """Return the settings at which nothing is added to the plainest form of the method, nested."""
    return parse_yaml(Path(__file__).with_name("neutral.yaml").read_text("utf-8"), "neutral")
