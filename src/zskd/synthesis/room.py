"""What making a set needs of a machine: memory, disk and processes, which change none of its bytes."""

from __future__ import annotations

import errno
import math
import os
import shutil
from pathlib import Path

import torch

from zskd.core.device import use_threads
from zskd.core.engines.base import PROCESS_BYTES, Engine, Need
from zskd.core.engines.local import LocalEngine
from zskd.core.errors import ZskdError
from zskd.core.memory import available_memory, bytes_per_image
from zskd.core.progress import readable_bytes
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.synthesis.inversion.objective import divergence_and_gradient
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.shard import Shard

START_SECONDS = 3.0
"""About what the first worker processes take to start: they import torch."""
SHARE = 0.5
"""Largest share of the free memory that is used: libraries allocate some of their own."""
_COPIES = 8
"""Copies of a shard's images that exist at the same time, most of them while start images are drawn."""


def worker_bytes(teacher: Classifier, spec: SetSpec) -> int:
    """Return the bytes that one process needs to make a shard: of the network, the batch and the images."""
    return sum(bytes_of_each(teacher, spec, lane_bytes(teacher, spec)))


def workers_bytes(teacher: Classifier, made: SetSpec, workers: int) -> int:
    """Return about how many bytes some processes need together, the one that starts them included."""
    # this process has measured the speed; of a further one, the workers are copies
    batches, processes = (workers + 1, workers + 2) if workers > 1 else (1, 1)
    return batches * worker_bytes(teacher, made) + processes * PROCESS_BYTES


def bytes_of_each(teacher: Classifier, spec: SetSpec, lane: int) -> tuple[int, int, int]:
    """Return the bytes of the network, of a batch with so many for each image, and of a shard's images."""
    images = min(spec.shard_size(teacher.classes), spec.count)
    weights = sum(value.nbytes for value in teacher.module.state_dict().values())
    image = 4 * math.prod(teacher.spec.shape)
    return weights, spec.synthesis.batch_size * lane, _COPIES * images * image


def lane_bytes(teacher: Classifier, spec: SetSpec) -> int:
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


def shard_need(teacher: Classifier, made: SetSpec) -> Need:
    """Return what making a shard needs of a machine."""
    memory = PROCESS_BYTES + worker_bytes(teacher, made)
    return Need(memory=memory, gpus=int(teacher.device.type == "cuda"))


def need_on(engine: Engine, teacher: Classifier, made: SetSpec) -> Need:
    """Return what an engine has to know of a shard: nothing on this machine, which `fit_workers` asks."""
    return Need() if engine.here else shard_need(teacher, made)


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
    room = int(SHARE * available_memory(teacher.device) / (worker_bytes(teacher, made) + PROCESS_BYTES))
    return max(1, min(chosen, room))


def possible_workers(teacher: Classifier, workers: int, engine: Engine) -> int:
    """Return how many processes may work at the same time: `workers`, or one per core of the engine for 0; on
    a GPU of this machine always one.
    """
    possible = teacher.device.type == "cpu" or not engine.here
    return (workers or engine.cores()) if possible else 1


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
    return images * Shard.bytes_per_image(shape, teacher.classes, spec.storage(shape))
