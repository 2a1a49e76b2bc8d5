"""What a folder that `zskd export --to hf` wrote tells of its network, in `config.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from zskd.core.artefact import Artefact, ClassNames, Shape, parse
from zskd.models.checkpoint import Number
from zskd.teacher.named.facts import Fact, Facts
from zskd.teacher.named.source import CONFIG, CONFIG_WHAT, EXPORTED, is_there, read_config

_ORIGIN: Final = "config.json of zskd export"


class _Preprocessing(Artefact):
    model_config = ConfigDict(extra="ignore")

    shape: Shape
    mean: tuple[Number, ...]
    std: tuple[Number, ...]


class _Description(Artefact):
    model_config = ConfigDict(extra="ignore")

    class_names: Annotated[ClassNames, Field(min_length=2)]
    box: tuple[Number, Number] | None = None


class _Config(Artefact):
    model_config = ConfigDict(extra="ignore")

    preprocessing: _Preprocessing
    zskd: _Description


def exported_facts(weights: Path) -> Facts | None:
    """Return what an exported folder tells; None of other weights.

    Raises:
        ZskdError: its `config.json` is damaged.
    """
    if not is_there(path := weights / CONFIG):
        return None
    values = read_config(weights)
    if EXPORTED not in values:
        return None
    config = parse(values, _Config, f"{path}, {CONFIG_WHAT},", "export the network again")
    own = config.preprocessing
    return Facts(
        shape=Fact(own.shape, _ORIGIN),
        mean=Fact(own.mean, _ORIGIN),
        std=Fact(own.std, _ORIGIN),
        box=None if config.zskd.box is None else Fact(config.zskd.box, _ORIGIN),
        class_names=Fact(config.zskd.class_names, _ORIGIN),
    )
