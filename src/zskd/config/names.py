"""Types of settings that are names, made from the registries, so that `--help` lists the choices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from zskd.config.presets import preset_names
from zskd.config.registry import (
    ARCHITECTURES,
    CONTROLS,
    ENGINES,
    FEATURE_LOSSES,
    GENERATOR_METHODS,
    LOSSES,
    METHODS,
    OPTIMISERS,
    PIXEL_RULES,
    START_IMAGES,
    STUDENTS,
)

if TYPE_CHECKING:
    from typing import TypeAlias

    ControlName: TypeAlias = str
    EngineName: TypeAlias = str
    FeatureLossName: TypeAlias = str
    GeneratorMethodName: TypeAlias = str
    LossName: TypeAlias = str
    MethodName: TypeAlias = str
    ModelName: TypeAlias = str
    OptimiserName: TypeAlias = str
    PixelRuleName: TypeAlias = str
    PresetName: TypeAlias = str
    StartName: TypeAlias = str
    StudentName: TypeAlias = str
else:
    ControlName = Literal[tuple(CONTROLS)]
    EngineName = Literal[tuple(ENGINES)] | str
    FeatureLossName = Literal[tuple(FEATURE_LOSSES)] | str
    GeneratorMethodName = Literal[tuple(GENERATOR_METHODS)] | str
    LossName = Literal[tuple(LOSSES)] | str
    MethodName = Literal[tuple(METHODS)] | str
    ModelName = Literal[tuple(ARCHITECTURES)] | str
    OptimiserName = Literal[tuple(OPTIMISERS)] | str
    PixelRuleName = Literal[tuple(PIXEL_RULES)]
    PresetName = Literal[tuple(preset_names())] | str
    StartName = Literal[tuple(START_IMAGES)] | str
    StudentName = Literal[tuple(STUDENTS)] | str
