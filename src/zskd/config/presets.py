"""Presets: the base of a recipe.

The preset `default` is the defaults of the settings and has no file. A file of `recipes/presets` holds only
the changes of its method to `neutral.yaml`. There, every setting of targets, synthesis and distillation has
the value that adds nothing. A group that a preset does not name has its defaults. A preset with `like: NAME`
holds only the changes to that preset.
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
"""Key of the table of a preset with settings for single rates: rate -> nested settings."""
_LIKE = "like"
"""Key with the name of the preset that another one changes."""
_PRESETS = RECIPES / "presets"


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return [DEFAULT_PRESET, *yaml_names(_PRESETS)]


def read_preset(name: str) -> dict[str, Any]:
    """Return all values of a preset, nested: its changes, merged into the neutral values.

    Raises:
        ZskdError: unknown preset.
    """
    if name == DEFAULT_PRESET:
        return {}
    changed, neutral = preset_changes(name), neutral_values()
    return merge({group: neutral[group] for group in changed if group in neutral}, changed)


def preset_changes(name: str) -> dict[str, Any]:
    """Return the changes of a preset, and those of the preset that it is like, nested.

    Raises:
        ZskdError: unknown preset.
    """
    if name not in preset_names():
        raise ZskdError(f"unknown preset {name!r}{suggestion(name, preset_names())}")
    changed = parse_yaml((_PRESETS / f"{name}.yaml").read_text("utf-8"), name)
    like = changed.pop(_LIKE, None)
    return changed if like is None else merge(preset_changes(like), changed)


def neutral_values() -> Mapping[str, Any]:
    """Return the neutral settings, nested: the simplest form of the method."""
    return parse_yaml(Path(__file__).with_name("neutral.yaml").read_text("utf-8"), "neutral")
