"""Distillation: the student learns the teacher's answers to the images of a transfer set.

The stored targets are never used: the teacher is asked again about every augmented batch (ZSKD,
section 3.3; Beyer et al. 2022 call it consistent teaching).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from zskd.augment import augment
from zskd.classifier import Classifier
from zskd.config import Distill
from zskd.errors import ZskdError
from zskd.files import sha256_json
from zskd.fitting import fit
from zskd.losses import LOSSES
from zskd.machine import available_memory
from zskd.progress import Progress, readable_bytes
from zskd.transfer_set import TransferSet
from zskd.types import Images
from zskd.versions import versions


def distill(
    teacher: Classifier,
    transfer_set: TransferSet,
    student: nn.Module,
    config: Distill | None = None,
    *,
    seed: int = 0,
    state: Path | None = None,
    progress: Progress | None = None,
) -> Classifier:
    """Train a student on a transfer set and return it as a classifier of the teacher's inputs.

    Args:
        teacher: asked about every batch; not changed. The student goes to its device.
        transfer_set: images to learn on.
        student: trained in place, from the weights that it has.
        config: loss, augmentation and schedule.
        seed: of order and augmentation.
        state: file to resume from.
        progress: told of every step.

    Raises:
        ZskdError: images, classes or inputs do not fit, or the loss diverges.
    """
    config = config or Distill()
    teacher.freeze()
    if transfer_set.shape != teacher.spec.shape:
        raise ZskdError(
            f"{transfer_set.folder} holds images of {transfer_set.shape}, and the teacher takes "
            f"{teacher.spec.shape}"
        )
    if transfer_set.manifest["teacher_sha256"] != teacher.fingerprint():
        raise ZskdError(f"{transfer_set.folder} was made with another teacher: make a set with this one")
    progress = progress or Progress()
    classifier = Classifier(student, spec=teacher.spec, class_names=teacher.class_names).to(teacher.device)
    classifier.rewrite = teacher.rewrite
    loss_of = LOSSES[config.loss]
    images_of = _reader(transfer_set, config, progress)
    progress.detail(
        f"distill: {torch.get_num_threads()} threads on {teacher.device}; "
        f"teacher: {teacher.how_run()}; student: {classifier.how_run()}"
    )

    def loss(_module: nn.Module, rows: Tensor, numbers: Generator) -> Tensor:
        chosen = images_of(rows).to(teacher.device, non_blocking=True)
        images = augment(chosen, config.augment, teacher.spec.box, numbers)
        with torch.inference_mode():
            answers = teacher(images)
        return loss_of(classifier(images), answers.clone(), config)

    fit(
        student,
        loss,
        config,
        images=len(transfer_set),
        seed=seed,
        section="distill",
        state=state,
        key=_key(teacher, transfer_set, student, config, seed) if state else "",
        progress=progress,
    )
    return classifier.freeze()


def _reader(transfer_set: TransferSet, config: Distill, progress: Progress) -> Callable[[Tensor], Images]:
    """Return how the images of some rows are had, and say it."""
    need, free = transfer_set.image_bytes, available_memory()
    in_memory = need < free / 2 if config.images == "auto" else config.images == "memory"
    where = "copied into memory" if in_memory else "read from their mapped files at every step"
    progress.say(
        f"distill: {len(transfer_set):,} images of {readable_bytes(need)} are {where} "
        f"({readable_bytes(free)} are free)"
    )
    if not in_memory:
        return transfer_set.images
    images = transfer_set.all_images()
    return lambda rows: images[rows]


def _key(
    teacher: Classifier, transfer_set: TransferSet, student: nn.Module, config: Distill, seed: int
) -> str:
    """What a saved state must have been made with to be gone on with."""
    return sha256_json(
        {
            "teacher": teacher.fingerprint(),
            "shards": [shard["sha256"] for shard in transfer_set.manifest["shards"]],
            "student": [[name, list(value.shape)] for name, value in student.state_dict().items()],
            "config": repr(replace(config, images="auto")),
            "seed": seed,
            "versions": versions(),
            "threads": torch.get_num_threads(),
            "device": teacher.device.type,
            "rewrite": teacher.rewrite,
        }
    )
