"""What a student is asked: the batches that it learns from, each made ready with the teacher's answers."""

from __future__ import annotations

import pickle
from pathlib import Path
from shutil import disk_usage
from typing import Any

import torch
from torch import Generator, Tensor

from zskd.config.distillation import DistillConfig
from zskd.core.types import Images
from zskd.data.transforms import augment
from zskd.distillation.adversarial.base import make_generator_method
from zskd.distillation.adversarial.generator_steps import AdversarialGenerator
from zskd.distillation.adversarial.image_bank import ImageBank
from zskd.distillation.attention import attend
from zskd.models.classifier import Classifier
from zskd.training.batches import Batch
from zskd.training.state import Companions
from zskd.transfer_set.dataset import TransferSet


class DistillationBatches:
    """Makes a batch ready: some images, changed at random, the teacher's answers to them, their labels, and
    where the teacher looks, if that is asked for."""

    def __init__(self, teacher: Classifier, transfer_set: TransferSet | None, config: DistillConfig) -> None:
        """Begin without a student.

        Args:
            teacher: asked as it is: whoever takes batches must have frozen it, also before the batches are
                pickled for a helper, in which it stays as it arrives.
            transfer_set: images to draw from; None where a generator makes all of them.
            config: loss, augmentation, attention and generator.
        """
        self._teacher, self._set, self._config = teacher, transfer_set, config
        self._player: AdversarialGenerator | None = None
        self._rounds: ImageBank | None = None
        self._copy: Images | None = None

    def follow(self, student: Classifier, *, seed: int, turns: int) -> Companions:
        """Let what is asked hang on the student, where the settings say so; return what then changes with it.

        Args:
            student: as it learns.
            seed: of all that is made for it.
            turns: batches in all.
        """
        teacher, config = self._teacher, self._config
        companions: Companions = {}
        if config.generator.share:
            method = make_generator_method(config.generator.method)
            self._player = AdversarialGenerator(
                teacher, student, method, config.generator, seed=seed, turns=turns
            )
            companions = {**companions, **self._player.companions}
        if config.image_bank.share:
            self._rounds = ImageBank(teacher, student, config, self._changed, seed=seed, turns=turns)
            companions = {**companions, **self._rounds.companions}
        return companions

    def __call__(self, rows: Tensor, numbers: Generator) -> Batch:
        """Return a batch for some rows of the set: images, answers, labels, perhaps maps of attention."""
        teacher, config = self._teacher, self._config
        parts: list[Images] = []
        if self._player is not None:
            parts.append(self._player.images(round(config.generator.share * len(rows))))
        if self._rounds is not None:
            parts.append(self._rounds.images(round(config.image_bank.share * len(rows)), numbers))
        others = sum(len(part) for part in parts)
        if others < len(rows):
            parts.append(self._stored(rows[others:]))
        images = augment(torch.cat(parts), config.augment, teacher.spec.box, numbers)
        labels = rows if self._set is None else self._set.labels[rows]
        labels = labels.to(teacher.device)
        if not config.teacher_weight:
            return images, images.new_empty(len(images), 0), labels
        with torch.no_grad():
            answers, attention = attend(teacher, images) if config.attention else (teacher(images), [])
        return images, answers, labels, *attention

    def __getstate__(self) -> dict[str, Any]:
        """Hold the teacher by value: torch would move tensors that are sent to another process, the caller's
        own, to shared memory."""
        return vars(self) | {"_teacher": pickle.dumps(self._teacher)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"_teacher": pickle.loads(state["_teacher"])})

    def can_be_sent(self) -> bool:
        """Whether another process can make the batches: without the student, of a teacher that can be packed,
        and small enough."""
        if self._set is None or self._player is not None or self._rounds is not None:
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

    def _stored(self, rows: Tensor) -> Images:
        assert self._set is not None
        if self._config.images == "memory" and self._copy is None:  # by the process that needs it
            self._copy = self._set.all_images()
        chosen = self._set.images(rows) if self._copy is None else self._copy[rows]
        return chosen.to(self._teacher.device)

    def _changed(self, count: int, numbers: Generator) -> Images:
        """Return images of the set as a student may see them."""
        assert self._set is not None
        stored = self._stored(torch.randint(len(self._set), (count,), generator=numbers))
        return augment(stored, self._config.augment, self._teacher.spec.box, numbers)
