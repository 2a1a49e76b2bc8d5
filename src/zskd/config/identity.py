"""What identifies a result: settings as plain values, without those that change nothing."""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from typing import Any

from pydantic import TypeAdapter

from zskd.config.distillation import GeneratorConfig, ImageBankConfig
from zskd.config.recipe import Recipe

_LATER: tuple[tuple[str, str, Any], ...] = (
    ("", "budget", None),
    ("data", "twin", "none"),
    ("targets", "spread", 1.0),
    ("teacher", "optimiser", "adam"),
    ("teacher", "seed", None),
    ("distill", "start", "random"),
    ("distill", "optimiser", "adam"),
    ("distill", "attention", 0.0),
    ("distill", "game", dataclasses.asdict(GeneratorConfig())),
    ("distill", "rounds", dataclasses.asdict(ImageBankConfig())),
)
"""Group, name and neutral value of settings that are younger than the records: with this value a result is
what it was before there was the setting, and so is its hash."""
_FORMER = {"weights": "last", "ema_decay": 0.999}
"""Settings of each training that are no more, with the values of all records: hashes still count them."""
recipe_adapter = cache(partial(TypeAdapter, Recipe))
"""The validator: it takes long to build, and an experiment reads hundreds of recipes."""


def to_values(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as nested plain values."""
    values: dict[str, Any] = recipe_adapter().dump_python(recipe, mode="json")
    return values


def identity(recipe: Recipe) -> dict[str, Any]:
    """Return what results are made of: sources are known by their hashes and not by where they lie."""
    values = to_values(recipe)
    # these change nothing; the first is younger than the hashes of runs that there are
    del values["tensorboard"]
    values["workers"] = values["distill"]["images"] = None
    values["data"]["dir"] = values["teacher"]["path"] = values["teacher"]["golden"] = None
    if values["teacher"]["seed"] == values["seed"]:
        values["teacher"]["seed"] = None  # the teacher that a run of this seed has anyway
    for training in ("teacher", "distill"):
        values[training] |= _FORMER
    for group, setting, absent in _LATER:
        level = values[group] if group else values
        if level[setting] == absent:
            del level[setting]
    return values
