"""Settings that identify a result, as plain values, without those that do not change it.

Hashes of existing results must not change when a setting is renamed, added or removed. So hashes and cards
use the names of settings in the first records, and older recipes may use them, too. Only this file knows
these names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zskd.config.checks import Config
from zskd.config.distillation import GeneratorConfig, ImageBankConfig
from zskd.config.recipe import Recipe
from zskd.config.sources import FreshConfig, PicturesConfig, ReplayConfig
from zskd.config.training import DEFAULT_BOX, DEFAULT_NETWORK, DEFAULT_SHAPE
from zskd.config.transforms import AugmentConfig

_RENAMED = {
    "distill.game": "distill.generator",
    "distill.game.rule": "distill.generator.method",
    "distill.rounds": "distill.image_bank",
}
"""Former name of a setting -> its name."""
_ATTENTION = {"loss": "attention", "layers": "convolutions"}
"""Settings of `distill.features` that are `distill.attention` in the records, with its weight."""
_SPREAD = 1.0
"""Default of `spread`, a setting of the method soft_targeted; in the records it belongs to the targets."""


def plain(value: Any) -> Any:
    """Return settings as nested plain values: dicts, lists, numbers and text."""
    if isinstance(value, Config):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def to_values(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as nested plain values."""
    values: dict[str, Any] = plain(recipe)
    return values


def former_keys(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return nested values of a recipe, or of the group at `path`, under the names of the records."""
    renamed = _rename(values, {new: old for old, new in _RENAMED.items()}, path)
    distill = renamed if path == "distill" else renamed.get("distill")
    if isinstance(distill, dict) and "features" in distill:
        distill |= _former_features(distill.pop("features"))
    return renamed


def from_former_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values of a recipe, with former or present names, under the present names."""
    renamed = _rename(values, _RENAMED, "")
    distill = renamed.get("distill")
    if isinstance(distill, dict) and "attention" in distill:
        distill.setdefault("features", _ATTENTION | {"weight": distill.pop("attention")})
    targets = renamed.get("targets")
    if isinstance(targets, Mapping) and "spread" in targets:
        renamed["targets"] = {key: value for key, value in targets.items() if key != "spread"}
        own = renamed.get("method_settings", {})
        if renamed.get("method") == "soft_targeted" and isinstance(own, Mapping):
            renamed["method_settings"] = {"spread": targets["spread"], **own}
    return renamed


def split_spread(method: str, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the spread that the records keep among the targets, and the other settings of a method."""
    others = dict(settings)
    spread = others.pop("spread", _SPREAD) if method == "soft_targeted" else _SPREAD
    # a whole number is the same spread; what is no number at all is refused where the method is made
    return float(spread) if isinstance(spread, int) else spread, others


def _former_features(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the loss of features as in the records, where attention transfer has a name."""
    if not features["weight"]:
        return {"attention": 0.0}
    if features == _ATTENTION | {"weight": features["weight"]}:
        return {"attention": features["weight"]}
    return {"attention": 0.0, "features": features}


def _rename(values: Mapping[Any, Any], table: Mapping[str, str], path: str) -> dict[str, Any]:
    renamed = {}
    for key, value in values.items():
        here = f"{path}.{key}".removeprefix(".")
        name = table.get(here, here).rpartition(".")[2]
        renamed[name] = _rename(value, table, here) if isinstance(value, Mapping) else value
    return renamed


_STRONG = ("crop", "flip_vertical", "brightness", "contrast", "saturation", "hue", "cutout", "jpeg")
"""Changes of `distill.augment` that are newer than the first records; 0 leaves them out."""
_LATER: tuple[tuple[str, str, Any], ...] = (
    ("", "budget", None),
    ("", "passes", None),
    ("", "students", []),
    ("", "method_settings", {}),
    ("data", "twin", "none"),
    ("targets", "spread", _SPREAD),
    ("synthesis", "candidates", 1),
    ("synthesis", "storage", "auto"),
    ("synthesis", "shard_mb", 0),
    ("synthesis", "precision", "float32"),
    ("synthesis", "changes", "all"),
    ("synthesis", "learning_rate_search", 0),
    ("teacher", "precision", "float32"),
    ("distill", "precision", "float32"),
    ("teacher", "optimiser", "adam"),
    ("teacher", "seed", None),
    ("distill", "start", "random"),
    ("distill", "optimiser", "adam"),
    ("distill", "attention", 0.0),
    ("distill", "batch_norm", "running"),
    *(("distill.augment", name, 0.0) for name in _STRONG),
    ("distill.augment", "outside", AugmentConfig().outside),
    ("distill.augment", "cutout_side", AugmentConfig().cutout_side),
    ("distill.augment", "jpeg_quality", list(AugmentConfig().jpeg_quality)),
    ("distill", "order", "shuffled"),
    ("distill", "window_mb", 64),
    ("distill", "changes", "all"),
    ("distill", "compile", "never"),
    ("distill", "fresh", plain(FreshConfig())),
    ("distill", "replay", plain(ReplayConfig())),
    ("distill", "pictures", plain(PicturesConfig())),
    ("distill", "game", former_keys(plain(GeneratorConfig()), "distill.generator")),
    ("distill.game", "method_settings", {}),
    ("distill.game", "beta1", 0.9),
    ("distill.game", "average", 0.0),
    ("distill.game", "augmented", False),
    ("distill.game", "momentum", 0.0),
    ("distill.game", "renew", 0),
    ("distill.game", "warm_up", 0),
    ("distill.game", "style", 0),
    ("distill.game", "pool", 0),
    ("distill.game", "replay", 0.0),
    ("distill", "rounds", former_keys(plain(ImageBankConfig()), "distill.image_bank")),
)
"""Group, name in the records and neutral value of settings that are newer than the first records. With the
neutral value, the result and its hash are the same as before the setting existed."""
_GONE = {"weights": "last", "ema_decay": 0.999}
"""Removed settings of each training, with their values in all records; hashes still include them. Today's
`teacher.weights` is another setting; the fingerprint of the teacher identifies it, like `teacher.path`."""


def described(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain settings of a teacher with the network and input that hold where they are absent."""
    told = {"model": DEFAULT_NETWORK, "shape": list(DEFAULT_SHAPE), "mean": [0.0], "std": [1.0]}
    told["box"] = list(DEFAULT_BOX)
    return {key: told.get(key) if value is None else value for key, value in teacher.items()}


def identity(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that identify a result, without paths: the hashes of data and teacher are added
    elsewhere.
    """
    values = former_keys(to_values(recipe))
    spread, values["method_settings"] = split_spread(recipe.method, recipe.method_settings)
    values["targets"]["spread"] = spread
    values["controls"], values["held_out"] = list(recipe.control_arms), recipe.held_out_count
    # these do not change results, or hashes of their files identify them; they are newer than existing runs
    for path in ("tensorboard", "images", "few", "engine"):
        del values[path]
    values["workers"] = values["distill"]["images"] = None
    if not recipe.distill.augment.shares:
        values["distill"]["augment"]["share"] = 0.0  # as in the records of presets without affine maps
    values["data"]["dir"] = values["teacher"]["path"] = values["teacher"]["golden"] = None
    if values["teacher"]["seed"] == values["seed"]:
        values["teacher"]["seed"] = None  # the default
    # where they are absent, the fingerprint of the teacher identifies them; hashes hold the first defaults
    values["teacher"] = described(values["teacher"])
    for training in ("teacher", "distill"):
        values[training] |= _GONE
    for group, setting, absent in _LATER:
        level = values
        for part in filter(None, group.split(".")):
            level = level.get(part, {})  # a neutral group is gone as a whole
        if setting in level and level[setting] == absent:
            del level[setting]
    return values
