"""How a set is divided: images per batch and per file; and how their pixels are stored.

A set's bytes depend on the batch, so it is chosen before anything is made and kept in the manifest.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.core.memory import at_once, available_memory, is_large
from zskd.core.progress import readable_bytes
from zskd.models.classifier import Classifier
from zskd.synthesis.room import SHARE, bytes_of_each, lane_bytes
from zskd.synthesis.spec import SetSpec, read_spec
from zskd.transfer_set.manifest import MANIFEST, Manifest, Resolved, ShardEntry, read_manifest
from zskd.transfer_set.shard import Shard

_LITTLE = 0.125
"""A batch that takes less than this share of what network and images take is not halved: that is slower."""
_BATCHES = 4
"""Batches in a shard of large images."""


def fit_spec(teacher: Classifier, spec: SetSpec, folder: Path | None = None) -> SetSpec:
    """Return a spec with the batch, the shard size and the storage that a set is made with.

    A set that was begun is continued as it was begun. For a new one, the default batch is less for large
    images on a CPU, where larger batches are no faster, and shards are smaller. What takes more than half of
    the free memory is halved: shards of the default size while they take more than the batch, and the batch
    while that is of use.

    Args:
        teacher: on the device that the images are made on.
        spec: what was asked for; it is not changed, and the manifest holds it beside what was used.
        folder: of the set; None: a set that is not stored.

    Raises:
        ZskdError: the memory has no room for a single image.
    """
    if folder is not None and (folder / MANIFEST).is_file():
        return as_made(spec, read_manifest(folder).resolved)
    shards_may_shrink = has_usual_shards(spec)
    spec = of_size(teacher, spec)
    lane, free = lane_bytes(teacher, spec), available_memory(teacher.device)
    while (need := sum(needs := bytes_of_each(teacher, spec, lane))) > SHARE * free:
        _, of_batch, of_images = needs
        lanes, images, full = spec.synthesis.batch_size, spec.synthesis.shard_size, in_batches(spec)
        if shards_may_shrink and of_images > of_batch and min(images, spec.count) > full:
            spec = in_files(spec, max(full, images // 2 // full * full))
        elif lanes > 1 and (need > free or of_batch > _LITTLE * (need - of_batch)):
            spec = _with(spec, batch_size=lanes // 2)
        else:
            break
    if need > free:
        lower = "--count" if spec.targets.order == "rows" else "--synthesis.shard-size"
        raise ZskdError(
            f"synthesis of one image at a time, {spec.shard_size(teacher.classes):,} in a file, needs "
            f"{readable_bytes(need)}, and {readable_bytes(free)} of memory are free: make room, or lower "
            f"{lower}"
        )
    return spec


def made_spec(manifest: Manifest, *, trusted: Collection[str] = ()) -> SetSpec:
    """Return the spec that a set was made with, nothing left to ask the teacher: to trace its impressions.

    Args:
        manifest: of the set.
        trusted: the user's code that may run if the manifest names it; no other code is imported.

    Raises:
        ZskdError: the set was not synthesised, or its settings are damaged or name code that is not trusted.
    """
    return as_made(read_spec(manifest.spec, trusted=trusted), manifest.resolved)


def as_made(spec: SetSpec, resolved: Resolved | None) -> SetSpec:
    """Return the spec that a set was made with: what was asked for, changed as its manifest says."""
    if resolved is None:
        return spec
    flip = spec.synthesis.warp.flip if resolved.flip is None else resolved.flip
    return _with(
        spec,
        changes="all",
        learning_rate=resolved.learning_rate or spec.synthesis.learning_rate,
        learning_rate_search=0,
        warp=replace(spec.synthesis.warp, flip=flip),
        batch_size=resolved.batch_size or spec.synthesis.batch_size,
        shard_size=resolved.shard_size or spec.synthesis.shard_size,
        shard_mb=0,
        storage=resolved.storage or "float32",
    )


def resolve(teacher: Classifier, spec: SetSpec, made: SetSpec) -> Resolved:
    """Return what a manifest says about how a set is made, beside the spec that was asked for.

    Args:
        teacher: of the set.
        spec: what was asked for.
        made: what `fit_spec` made of it.
    """
    asked, used = spec.synthesis, made.synthesis
    changed: dict[str, Any] = {
        name: getattr(used, name)
        for name in ("batch_size", "shard_size")
        if getattr(used, name) != getattr(asked, name)
    }
    storage = made.storage(teacher.spec.shape)
    if storage != "float32":
        changed["storage"] = storage
    if asked.changes == "by_teacher":
        changed["flip"] = used.warp.flip
    if spec.searches_rate:
        changed["learning_rate"] = used.learning_rate
    if spec.optimises and spec.objective.couples:
        changed["coupled"] = True
    device = teacher.device.type
    return Resolved(threads=1, device=device, dtype="float32", **teacher.how_run(), **changed)


def of_size(teacher: Classifier, spec: SetSpec) -> SetSpec:
    """Return the spec with the defaults for images of the teacher's size, however much memory is free, and
    with images instead of megabytes in a file."""
    shape, config, default = teacher.spec.shape, spec.synthesis, SynthesisConfig()
    lanes, size = config.batch_size, config.shard_size
    if lanes == default.batch_size and teacher.device.type == "cpu":
        lanes = at_once(lanes, shape)
    if size == default.shard_size:
        size = images_in_file(size, lanes, shape)
    spec = _with(spec, storage=spec.storage(shape), batch_size=lanes)
    if config.shard_mb:
        size = _images_in(config.shard_mb * 10**6, teacher, spec)
    return in_files(spec, size)


def has_usual_shards(spec: SetSpec) -> bool:
    """Whether nobody has chosen how many images a file has."""
    config, default = spec.synthesis, SynthesisConfig()
    usual = config.shard_size == default.shard_size and not config.shard_mb
    return usual and spec.targets.order != "rows"


def images_in_file(usual: int, lanes: int, shape: tuple[int, int, int]) -> int:
    """Return how many images of a shape a file has: the usual number, or four batches of large ones."""
    return _BATCHES * lanes if is_large(shape) else usual


def in_files_as_begun(
    config: SynthesisConfig, shape: tuple[int, int, int], count: int, begun: Mapping[int, ShardEntry]
) -> int:
    """Return how many images each file has of a set that is written as it is given, not synthesised.

    Args:
        config: the usual number, and the batch.
        shape: of the images.
        count: of images.
        begun: files that are there, which an earlier version may have made of the usual number.
    """
    sizes = (images_in_file(config.shard_size, config.batch_size, shape), config.shard_size)
    fits = (
        size for size in sizes if all(one.count == min(size, count - size * k) for k, one in begun.items())
    )
    return next(fits, sizes[0])


def _images_in(most: int, teacher: Classifier, spec: SetSpec) -> int:
    """Return how many images a file of so many bytes has: full batches, if one fits, of whole groups of
    images that must be together."""
    shape, together = teacher.spec.shape, spec.together
    image = Shard.bytes_per_image(shape, teacher.classes, spec.storage(shape))
    fit, unit = most // image, in_batches(spec)
    unit = unit if fit >= unit else together
    return max(unit, fit // unit * unit)


def in_files(spec: SetSpec, images: int) -> SetSpec:
    """Return the spec with so many images in each file."""
    return _with(spec, shard_size=images, shard_mb=0)


def in_batches(spec: SetSpec) -> int:
    """Return the smallest number of images that is full batches and whole groups."""
    return math.lcm(spec.synthesis.batch_size, spec.together)


def _with(spec: SetSpec, **changed: object) -> SetSpec:
    return replace(spec, synthesis=replace(spec.synthesis, **changed))  # type: ignore[arg-type]
