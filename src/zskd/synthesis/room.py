"""How much of a set is made at once: images per batch and per file, and processes; and its room on the disk.

A set's bytes depend on the batch, so it is chosen before anything is made and kept in the manifest; the
number of processes never changes them.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zskd.config.synthesis import SynthesisConfig
from zskd.core.device import use_threads
from zskd.core.engines.base import PROCESS_BYTES, Engine, Need
from zskd.core.engines.local import LocalEngine
from zskd.core.errors import ZskdError
from zskd.core.memory import at_once, available_memory, bytes_per_image, is_large
from zskd.core.progress import readable_bytes
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.synthesis.inversion.objective import divergence_and_gradient
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.manifest import MANIFEST, Resolved, ShardEntry, read_manifest
from zskd.transfer_set.shard import Shard
from zskd.transfer_set.storage import Storage

START_SECONDS = 3.0
"""About what the first worker processes take to start: they import torch."""
_SHARE = 0.5
"""Largest share of the free memory that is used: libraries allocate some of their own."""
_LITTLE = 0.125
"""A batch that takes less than this share of what network and images take is not halved: that is slower."""
_BATCHES = 4
"""Batches in a shard of large images."""
_COPIES = 8
"""Copies of a shard's images that exist at the same time, most of them while start images are drawn."""


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
    lane, free = _lane_bytes(teacher, spec), available_memory(teacher.device)
    while (need := sum(needs := _needs(teacher, spec, lane))) > _SHARE * free:
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
    storage = storage_of(made, teacher.spec.shape)
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


def storage_of(spec: SetSpec, shape: tuple[int, int, int]) -> Storage:
    """Return how the images of a set are stored, of a shape (C, H, W)."""
    if spec.synthesis.storage == "auto":
        return "float32" if spec.own_method.differs_finely else usual_storage(shape)
    return spec.synthesis.storage


def usual_storage(shape: tuple[int, int, int]) -> Storage:
    """Return how images of a shape (C, H, W) are stored where nobody says it."""
    return "uint8" if is_large(shape) else "float32"


def fit_workers(
    teacher: Classifier,
    made: SetSpec,
    workers: int,
    *,
    shards: int,
    seconds: float,
    engine: Engine | None = None,
) -> int:
    """Return how many processes make shards.

    Args:
        teacher: on a GPU, it is kept busy by one process.
        made: from `fit_spec`.
        workers: as set; 0: one per core, or this process alone where others would take longer to start than
            they save.
        shards: to make.
        seconds: of one core that all of them take.
        engine: that they run on; None: this machine, whose memory has room for so many.
    """
    engine = engine or LocalEngine()
    chosen = min(possible_workers(teacher, workers, engine), shards)
    if not engine.here:
        return chosen
    if chosen > 1 and workers == 0 and seconds - seconds / chosen < START_SECONDS:
        return 1
    room = int(_SHARE * available_memory(teacher.device) / (worker_bytes(teacher, made) + PROCESS_BYTES))
    return max(1, min(chosen, room))


def possible_workers(teacher: Classifier, workers: int, engine: Engine) -> int:
    """Return how many processes may work at the same time: `workers`, or one per core of the engine for 0; on
    a GPU of this machine always one.
    """
    possible = teacher.device.type == "cpu" or not engine.here
    return (workers or engine.cores()) if possible else 1


def shard_need(teacher: Classifier, made: SetSpec) -> Need:
    """Return what making a shard needs of a machine."""
    memory = PROCESS_BYTES + worker_bytes(teacher, made)
    return Need(memory=memory, gpus=int(teacher.device.type == "cuda"))


def need_on(engine: Engine, teacher: Classifier, made: SetSpec) -> Need:
    """Return what an engine has to know of a shard: nothing on this machine, which `fit_workers` asks."""
    return Need() if engine.here else shard_need(teacher, made)


def workers_bytes(teacher: Classifier, made: SetSpec, workers: int) -> int:
    """Return about how many bytes some processes need together, the one that starts them included."""
    # this process has measured the speed; of a further one, the workers are copies
    batches, processes = (workers + 1, workers + 2) if workers > 1 else (1, 1)
    return batches * worker_bytes(teacher, made) + processes * PROCESS_BYTES


def worker_bytes(teacher: Classifier, spec: SetSpec) -> int:
    """Return the bytes that one process needs to make a shard: of the network, the batch and the images."""
    return sum(_needs(teacher, spec, _lane_bytes(teacher, spec)))


def _needs(teacher: Classifier, spec: SetSpec, lane: int) -> tuple[int, int, int]:
    """Return the bytes of the network, of a batch with so many for each image, and of a shard's images."""
    images = min(spec.shard_size(teacher.classes), spec.count)
    weights = sum(value.nbytes for value in teacher.module.state_dict().values())
    image = 4 * math.prod(teacher.spec.shape)
    return weights, spec.synthesis.batch_size * lane, _COPIES * images * image


def _lane_bytes(teacher: Classifier, spec: SetSpec) -> int:
    """Return the bytes that a step takes for each image of a batch, measured on a few images."""
    config, shape = spec.synthesis, teacher.spec.shape
    middle = sum(teacher.spec.box) / 2

    def forward(count: int) -> object:
        images = torch.full((count, *shape), middle, device=teacher.device)
        if not spec.optimises:
            with torch.enable_grad():  # answers alone take less
                return teacher(images.requires_grad_())
        targets = torch.full((count, teacher.classes), 1 / teacher.classes, device=teacher.device)
        warps = torch.full((count, 6), 0.5, device=teacher.device) if config.warp.moves else None
        active = torch.ones(count, dtype=torch.bool, device=teacher.device)
        return divergence_and_gradient(teacher, spec.objective, images, targets, warps, active, config)

    with frozen(teacher), use_threads(1), torch.no_grad():
        return bytes_per_image(forward) + 3 * 4 * math.prod(shape)  # the image and Adam's two moments


def check_disk(teacher: Classifier, spec: SetSpec, images: int, folder: Path) -> None:
    """Check that the disk has room for some images.

    Args:
        teacher: as for `set_bytes`.
        spec: as there.
        images: number of images.
        folder: of the set; it exists.

    Raises:
        ZskdError: it has not.
    """
    need, free = set_bytes(teacher, spec, images), shutil.disk_usage(folder).free
    if need > free:
        raise ZskdError(
            f"{images:,} images need {readable_bytes(need)} and {folder} has {readable_bytes(free)} free "
            f"({os.strerror(errno.ENOSPC)}): make room, or lower --count"
        )


def set_bytes(teacher: Classifier, spec: SetSpec, images: int) -> int:
    """Return the bytes on disk of some images of a set.

    Args:
        teacher: for its classes and the size of its images.
        spec: from `fit_spec`.
        images: number of images.
    """
    shape = teacher.spec.shape
    return images * Shard.bytes_per_image(shape, teacher.classes, storage_of(spec, shape))


def of_size(teacher: Classifier, spec: SetSpec) -> SetSpec:
    """Return the spec with the defaults for images of the teacher's size, however much memory is free, and
    with images instead of megabytes in a file."""
    shape, config, default = teacher.spec.shape, spec.synthesis, SynthesisConfig()
    lanes, size = config.batch_size, config.shard_size
    if lanes == default.batch_size and teacher.device.type == "cpu":
        lanes = at_once(lanes, shape)
    if size == default.shard_size:
        size = images_in_file(size, lanes, shape)
    spec = _with(spec, storage=storage_of(spec, shape), batch_size=lanes)
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
    image = Shard.bytes_per_image(shape, teacher.classes, storage_of(spec, shape))
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
