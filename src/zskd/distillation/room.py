"""Whether the training of a student on large images fits into the memory, found out before it begins."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal

import torch

from zskd.config.distillation import DistillConfig
from zskd.core.engines.base import PROCESS_BYTES, Need
from zskd.core.errors import ZskdError
from zskd.core.memory import available_memory, bytes_per_image, is_large
from zskd.core.progress import readable_bytes
from zskd.core.ranks import ALONE, Ranks
from zskd.core.rng import keep_global_rng
from zskd.distillation.features.paired import PairedFeatures
from zskd.models.classifier import Classifier

_OF_EACH_WEIGHT = 4
"""Weight, gradient and two moments of the optimiser."""
_BATCHES_AHEAD = 6
"""Batches whose features of the teacher exist at once: in use, in the making, and ready in the helper."""


def training_bytes(student: Classifier, config: DistillConfig, features: PairedFeatures | None = None) -> int:
    """Return about how many bytes the steps of a training take, measured on a few images.

    Args:
        student: a copy of it is run in training mode; it is not changed.
        config: batch size.
        features: of student and teacher, where a loss reads them.
    """
    tried = copy.deepcopy(student).train()
    tried.requires_grad_(True)
    middle = sum(student.spec.box) / 2

    def forward(count: int) -> object:
        images = torch.full((count, *student.spec.shape), middle, device=student.device)
        return tried(images) if features is None else features.of_student(tried, images)

    with keep_global_rng():
        image = bytes_per_image(forward)
    weights = sum(value.nbytes for value in student.module.parameters())
    teachers = 0 if features is None else _BATCHES_AHEAD * features.bytes_of_teacher(config.batch_size)
    return config.batch_size * image + _OF_EACH_WEIGHT * weights + teachers


def check_memory(
    student: Classifier, config: DistillConfig, features: PairedFeatures | None = None, ranks: Ranks = ALONE
) -> None:
    """Refuse a batch of large images for which there is no memory; others are small beside the rest.

    Args:
        student: left as it is.
        config: batch size.
        features: of student and teacher, where a loss reads them.
        ranks: that train it together. On processors those of a machine share its memory; each has a GPU of
            its own.

    Raises:
        ZskdError: there is none; the message names a batch size that fits.
    """
    if not is_large(student.spec.shape):
        return
    part = ranks.part(config.batch_size)
    own = replace(config, batch_size=part.stop - part.start)
    sharing = 1 if student.device.type == "cuda" else ranks.here
    need, free = sharing * training_bytes(student, own, features), available_memory(student.device)
    if need > free:
        fits = max(1, config.batch_size * free // (2 * need))
        raise ZskdError(
            f"a step with {config.batch_size} images needs about {readable_bytes(need)}, and "
            f"{readable_bytes(free)} of memory are free: give --distill.batch-size {fits}"
        )


def reading(image_bytes: int, free: int) -> Literal["memory", "mapped"]:
    """Return where images are read from that take so many bytes, where `distill.images` is "auto"."""
    return "memory" if image_bytes < free / 2 else "mapped"


def student_need(student: Classifier, config: DistillConfig, threads: int, image_bytes: int = 0) -> Need:
    """Return what the training of a student needs of a machine.

    Args:
        student: untrained.
        config: batch size, and where the images are read from.
        threads: that it is trained with.
        image_bytes: of its transfer set.
    """
    images = image_bytes if config.images == "memory" else 0
    memory = PROCESS_BYTES + training_bytes(student, config) + images
    return Need(threads=threads, memory=memory, gpus=int(student.device.type == "cuda"))


def fit_students(student: Classifier, config: DistillConfig, workers: int) -> int:
    """Return how many students can be trained at the same time: as many as there is memory for, at least one.

    Args:
        student: one of them.
        config: batch size.
        workers: as many at most.
    """
    each = training_bytes(student, config)
    return max(1, min(workers, available_memory(student.device) // (2 * each)))
