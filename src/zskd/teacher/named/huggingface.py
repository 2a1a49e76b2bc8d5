"""Find a network for image classification in a folder of transformers: `hf:FOLDER`.

The network comes from `config.json`, class names from its `id2label`, and the input from
`preprocessor_config.json`: the image processor of transformers is run on images of one colour, and what it
returns tells size, mean and std. No code of the folder is run, and nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zskd.core.errors import ZskdError, one_line
from zskd.core.extras import import_extra
from zskd.models.libraries.transformers import (
    ReversedChannels,
    TransformersNetwork,
    check_type,
    clean_config,
)
from zskd.teacher.named.facts import Fact, Facts, Found, Given
from zskd.teacher.named.source import CONFIG, Source, read_config

_PROCESSOR = "preprocessor_config.json"
_ADVICE = "give --shape, --mean and --std"


def find(source: Source, given: Given) -> Found:
    """Read a folder of transformers, with its weights unless the user names others.

    Args:
        source: names the folder.
        given: where it tells shape, mean and std, the image processor need not be one that can be measured.

    Raises:
        ZskdError: not such a folder, a network that is not for image classification, or weights that are
            missing or do not fit.
    """
    folder = Path(source.name)
    if not (folder / CONFIG).is_file():
        raise ZskdError(f"{folder} is no folder of transformers: it has no {CONFIG}")
    values = clean_config(read_config(folder))
    kind = str(values.get("model_type"))
    check_type(kind)
    with _quiet():
        config = TransformersNetwork(transformers=kind, config=values).library_config()
        channels = int(getattr(config, "num_channels", 3))
        processor = _read_processor(folder)
        measured = _measured(processor, channels, given) if processor else None
        told = bool(getattr(processor, "do_flip_channel_order", False))  # where that is all that is known
        flipped = measured.reversed_channels if measured else told
        names = [config.id2label[k] for k in sorted(config.id2label)]
        architecture = TransformersNetwork(
            transformers=kind, config=_short(config), reversed_channels=flipped
        )
        module, epsilon = (architecture.build(), 0.0) if source.weights else _load(folder, config, flipped)
    return Found(module, architecture, _facts(config, measured, names, channels), epsilon=epsilon)


def _short(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON, with the number of classes instead of their names."""
    values = clean_config(json.loads(config.to_json_string(use_diff=True)))
    count = len(config.id2label)
    dropped = ("id2label", "label2id", "architectures", "transformers_version")
    return {key: value for key, value in values.items() if key not in dropped} | {"num_labels": count}


def _load(folder: Path, config: Any, flipped: bool) -> tuple[nn.Module, float]:
    """Return the network with the weights of the folder, and the spacing of their type of number."""
    auto = import_extra("transformers").AutoModelForImageClassification
    try:
        module, report = auto.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # the library raises many kinds for missing and damaged files
        raise ZskdError(
            f"transformers cannot read the weights in {folder} ({one_line(error)[:150]})"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ZskdError(
            f"the weights in {folder} lack {len(missing)} tensors of the network, e.g. {missing[0]}: choose "
            "a folder of a network for image classification"
        )
    epsilon = max(torch.finfo(one.dtype).eps for one in module.parameters() if one.is_floating_point())
    return ReversedChannels(module.float()) if flipped else module.float(), epsilon


def _read_processor(folder: Path) -> Any:
    """Return the image processor of a folder; None without one."""
    if not (folder / _PROCESSOR).is_file():
        return None
    try:
        return import_extra("transformers").AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the library raises many kinds
        raise ZskdError(
            f"transformers cannot read {folder / _PROCESSOR} ({one_line(error)[:150]})"
        ) from error


@dataclass(frozen=True)
class Measured:
    """What an image processor makes of images, measured on images of one colour."""

    shape: tuple[int, int, int] | None
    """Channels, height and width of what it returns; None: those of the image."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """It returns (pixel − mean) / std of pixels in [0, 1]."""
    reversed_channels: bool
    """Whether it returns blue, green, red."""


def _measured(processor: Any, channels: int, given: Given) -> Measured | None:
    """Measure an image processor; None where that fails and the user tells all of it.

    Raises:
        ZskdError: as `_measure` does.
    """
    try:
        return _measure(processor, channels)
    except ZskdError:
        if None in (given.shape, given.mean, given.std):
            raise
        return None


def _measure(processor: Any, channels: int) -> Measured:
    """Measure an image processor, because each of them has its own rules for scaling, normalising and
    cropping.

    Raises:
        ZskdError: it cannot process an image, or does not treat all pixels alike.
    """
    # one of another size shows whether it leaves the size as it is
    black, white, red = (np.zeros((channels, side, side), np.uint8) for side in (512, 512, 640))
    white[:], red[0] = 255, 255
    try:
        seen = [
            np.asarray(
                processor(one, return_tensors="np", input_data_format="channels_first")["pixel_values"][0]
            )
            for one in (black, white, red)
        ]
    except Exception as error:  # the library raises many kinds
        raise ZskdError(
            f"{_PROCESSOR} cannot process an image ({one_line(error)[:150]}): {_ADVICE}"
        ) from error
    low, high, first = (one.reshape(channels, -1).astype(np.float64) for one in seen)
    if (np.ptp(low, axis=1) + np.ptp(high, axis=1)).max() > 1e-4 or (high - low).min() <= 0:
        raise ZskdError(f"{_PROCESSOR} does not treat all pixels alike: {_ADVICE}")
    slope, offset = (high - low)[:, 0], low[:, 0]
    flipped = channels > 1 and bool(np.abs(first[-1] - high[-1, 0]).max() < 1e-4)
    if flipped:
        slope, offset = slope[::-1], offset[::-1]
    return Measured(
        shape=(channels, *seen[0].shape[1:]) if seen[0].shape == seen[2].shape else None,
        mean=tuple(round(float(-b / a), 6) + 0.0 for a, b in zip(slope, offset, strict=True)),
        std=tuple(round(float(1 / a), 6 if a < 1000 else 12) for a in slope),
        reversed_channels=flipped,
    )


def _facts(config: Any, measured: Measured | None, names: list[str], channels: int) -> Facts:
    size = getattr(config, "image_size", None)
    shape = None
    if measured and measured.shape:
        shape = Fact(measured.shape, _PROCESSOR)
    elif size:
        height, width = (size, size) if isinstance(size, int) else size
        shape = Fact((channels, int(height), int(width)), "config.json image_size")
    numbered = names == [f"LABEL_{k}" for k in range(len(names))]
    return Facts(
        shape=shape,
        mean=Fact(measured.mean, _PROCESSOR) if measured else None,
        std=Fact(measured.std, _PROCESSOR) if measured else None,
        class_names=None if numbered else Fact(tuple(map(str, names)), "config.json id2label"),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing progress bars and printing warnings inside the block."""
    logs = import_extra("transformers").utils.logging
    before = logs.get_verbosity()
    bars = logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(before)
        if bars:
            logs.enable_progress_bar()
