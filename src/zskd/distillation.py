"""Distillation: the student learns the teacher's answers to the images of a transfer set, or to those of a
generator that plays against it.

The stored targets are never used: the teacher is asked again about every augmented batch (ZSKD,
section 3.3; Beyer et al. 2022 call it consistent teaching).
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from shutil import disk_usage

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from zskd.attention import attend, attention_distance, check_attention
from zskd.augment import augment
from zskd.classifier import Classifier
from zskd.config import Distill
from zskd.errors import ZskdError
from zskd.files import sha256_json
from zskd.fitting import Batch, fit, percent_said
from zskd.game import Player
from zskd.losses import LOSSES
from zskd.machine import available_memory
from zskd.progress import Progress, readable_bytes
from zskd.transfer_set import TransferSet
from zskd.types import Images
from zskd.versions import versions


def distill(
    teacher: Classifier,
    transfer_set: TransferSet | None,
    student: nn.Module,
    config: Distill | None = None,
    *,
    seed: int = 0,
    state: Path | None = None,
    helper: bool = False,
    progress: Progress | None = None,
) -> Classifier:
    """Train a student and return it as a classifier of the teacher's inputs.

    Args:
        teacher: asked about every batch; not changed. The student goes to its device.
        transfer_set: images to learn on; None where a generator makes all of them.
        student: trained in place, from the weights that it has.
        config: loss, augmentation, schedule and generator.
        seed: of order and augmentation.
        state: file to resume from.
        helper: whether a second process makes the batches ready, teacher's answers included, while the
            student learns: the same student in less time where a core is free. A script that asks for it
            needs `if __name__ == "__main__":`.
        progress: told of every step.

    Raises:
        ZskdError: images, classes or inputs do not fit, or the loss diverges.
    """
    config = config or Distill()
    teacher.freeze()
    if transfer_set is not None:
        _check_fit(teacher, transfer_set)
    elif config.game.share < 1:
        raise ZskdError("there is no transfer set to learn from: give --distill.game.share 1")
    progress = progress or Progress()
    classifier = Classifier(student, spec=teacher.spec, class_names=teacher.class_names).to(teacher.device)
    classifier.rewrite = teacher.rewrite
    loss_of = LOSSES[config.loss]
    if config.attention:
        check_attention(classifier, teacher)
    if transfer_set is not None:
        config = choose_reading(transfer_set, config, progress)
    images = config.batch_size if transfer_set is None else len(transfer_set)
    player = None
    if config.game.share:
        turns = config.total_steps(images)
        player = Player(teacher, classifier, config.game, seed=seed, turns=turns)
    questions = _Questions(teacher, transfer_set, player, config)
    helper = helper and questions.can_be_sent()
    progress.detail(
        f"distill: {torch.get_num_threads()} threads on {teacher.device}"
        f"{' and as many of a helper' if helper else ''}; "
        f"teacher: {teacher.how_run()}; student: {classifier.how_run()}"
    )

    last: Batch = ()

    def loss(batch: Batch) -> Tensor:
        nonlocal last
        images, answers, labels, *attention = batch
        said, attended = attend(classifier, images) if attention else (classifier(images), [])
        last = said.detach(), answers
        parts = []
        if config.teacher_weight:
            parts.append(loss_of(said, answers, config) * config.teacher_weight)
        if config.label_weight:
            parts.append(F.cross_entropy(said, labels) * config.label_weight)
        if attention:
            parts.append(attention_distance(attended, attention) * config.attention)
        return torch.stack(parts).sum()

    def watch() -> dict[str, float]:
        said, answers = last
        return {"agreement": percent_said(said, answers.argmax(1))}

    fit(
        student,
        questions,
        loss,
        config,
        images=images,
        seed=seed,
        section="distill",
        helper=helper,
        state=state,
        key=_key(teacher, transfer_set, student, config, seed) if state else "",
        companions=player.companions if player else None,
        watch=watch if config.teacher_weight else None,
        progress=progress,
    )
    return classifier.freeze()


def choose_reading(
    transfer_set: TransferSet, config: Distill, progress: Progress, *, readers: int = 1
) -> Distill:
    """Decide where the images are read from, say it, and return the settings with it.

    Args:
        transfer_set: images to learn on.
        config: whose `images` is "auto", or is kept.
        progress: told.
        readers: processes that will each read a set of this size at the same time.

    Raises:
        ZskdError: the images are to be copied into memory and do not fit.
    """
    need, free = readers * transfer_set.image_bytes, available_memory()
    if config.images == "memory" and need > free:
        raise ZskdError(
            f"{readable_bytes(need)} of images do not fit into the {readable_bytes(free)} of free memory: "
            "give --distill.images mapped"
        )
    if config.images == "auto":
        config = replace(config, images="memory" if need < free / 2 else "mapped")
        how = "copied into memory" if config.images == "memory" else "read from mapped files at each step"
        progress.say(
            f"distill: {len(transfer_set):,} images of {readable_bytes(transfer_set.image_bytes)} are {how} "
            f"({readable_bytes(free)} are free)"
        )
    return config


def _check_fit(teacher: Classifier, transfer_set: TransferSet) -> None:
    if transfer_set.shape != teacher.spec.shape:
        raise ZskdError(
            f"{transfer_set.folder} holds images of {transfer_set.shape}, and the teacher takes "
            f"{teacher.spec.shape}"
        )
    if transfer_set.manifest["teacher_sha256"] != teacher.fingerprint():
        raise ZskdError(f"{transfer_set.folder} was made with another teacher: make a set with this one")


class _Questions:
    """Makes a batch ready: some images, changed at random, the teacher's answers to them, their labels, and
    where the teacher looks, if that is asked for."""

    def __init__(
        self, teacher: Classifier, transfer_set: TransferSet | None, player: Player | None, config: Distill
    ) -> None:
        self._teacher, self._set, self._player, self._config = teacher, transfer_set, player, config
        self._copy: Images | None = None
        self._by_class = _rows_by_class(transfer_set) if config.balance and transfer_set is not None else []

    def __call__(self, rows: Tensor, numbers: Generator) -> Batch:
        teacher, config = self._teacher, self._config
        made = round(config.game.share * len(rows))
        if self._by_class:
            rows = self._balanced(rows, numbers)
        parts = [self._stored(rows[made:])] if made < len(rows) else []
        if self._player is not None:
            parts.append(self._player.images(made))
        images = augment(torch.cat(parts), config.augment, teacher.spec.box, numbers)
        labels = rows if self._set is None else self._set.labels[rows]
        labels = labels.to(teacher.device)
        if not config.teacher_weight:
            return images, images.new_empty(len(images), 0), labels
        with torch.no_grad():
            answers, attention = attend(teacher, images) if config.attention else (teacher(images), [])
        return images, answers, labels, *attention

    def _stored(self, rows: Tensor) -> Images:
        assert self._set is not None
        if self._config.images == "memory" and self._copy is None:  # by the process that needs it
            self._copy = self._set.all_images()
        chosen = self._set.images(rows) if self._copy is None else self._copy[rows]
        return chosen.to(self._teacher.device)

    def _balanced(self, rows: Tensor, numbers: Generator) -> Tensor:
        """Keep of each row nothing but its turn: a class for every turn, and a random one of its images."""
        found = self._by_class
        chance = torch.rand(len(rows), generator=numbers).tolist()
        turns = (rows % len(found)).tolist()
        return torch.stack([found[k][int(u * len(found[k]))] for k, u in zip(turns, chance, strict=True)])

    def can_be_sent(self) -> bool:
        """Whether another process can make the batches: without the student, the teacher can be packed, and
        they fit."""
        if self._set is None or self._player is not None:
            return False
        waiting = 8 * self._config.batch_size * self._set.image_bytes / len(self._set)
        shared = Path("/dev/shm")
        if self._teacher.device.type != "cpu" or (shared.is_dir() and disk_usage(shared).free < waiting):
            return False
        try:
            pickle.dumps(self._teacher)
        except Exception:  # whatever a user's network raises when it is packed
            return False
        return True


def _rows_by_class(transfer_set: TransferSet) -> list[Tensor]:
    """Return the rows of each class that the teacher gives to any image."""
    said = torch.cat([shard.logits.argmax(1) for shard in transfer_set])
    classes = range(len(transfer_set.class_names))
    return [rows for k in classes if len(rows := (said == k).nonzero()[:, 0])]


def _key(
    teacher: Classifier, transfer_set: TransferSet | None, student: nn.Module, config: Distill, seed: int
) -> str:
    """What a saved state must have been made with to be gone on with."""
    return sha256_json(
        {
            "teacher": teacher.fingerprint(),
            "transfer_set": transfer_set and transfer_set.fingerprint(),
            "student": [[name, list(value.shape)] for name, value in student.state_dict().items()],
            "config": repr(replace(config, images="auto")),
            "seed": seed,
            "versions": versions(),
            "threads": torch.get_num_threads(),
            "device": teacher.device.type,
            "rewrite": teacher.rewrite,
        }
    )
