"""Distillation: the student learns the teacher's answers to the images of a transfer set.

The stored targets are never used: the teacher is asked again about every augmented batch (ZSKD,
section 3.3; Beyer et al. 2022 call it consistent teaching).
"""

from __future__ import annotations

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
from zskd.progress import Progress
from zskd.transfer_set import TransferSet
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
        teacher: asked about every batch; not changed.
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
    classifier = Classifier(student, spec=teacher.spec, class_names=teacher.class_names)
    loss_of = LOSSES[config.loss]

    def loss(_module: nn.Module, rows: Tensor, numbers: Generator) -> Tensor:
        images = augment(transfer_set.images(rows), config.augment, teacher.spec.box, numbers)
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


def _key(
    teacher: Classifier, transfer_set: TransferSet, student: nn.Module, config: Distill, seed: int
) -> str:
    """What a saved state must have been made with to be gone on with."""
    return sha256_json(
        {
            "teacher": teacher.fingerprint(),
            "shards": [shard["sha256"] for shard in transfer_set.manifest["shards"]],
            "student": [[name, list(value.shape)] for name, value in student.state_dict().items()],
            "config": repr(config),
            "seed": seed,
            "versions": versions(),
            "threads": torch.get_num_threads(),
        }
    )
