"""The batches of a distillation: augmented images with the teacher's logits and features, and labels."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from math import prod
from pathlib import Path
from shutil import disk_usage
from typing import Any

import torch
from torch import Generator, Tensor

from zskd.config.distillation import DistillConfig
from zskd.core.memory import at_once
from zskd.core.rng import torch_stream
from zskd.core.types import Images, Logits
from zskd.data.transforms import augment
from zskd.distillation.adversarial.base import make_generator_method
from zskd.distillation.adversarial.generator_steps import AdversarialGenerator
from zskd.distillation.adversarial.image_bank import ImageBank
from zskd.distillation.features.paired import PairedFeatures
from zskd.models.classifier import Classifier
from zskd.models.many_images import logits_in_parts
from zskd.training.batches import Batch
from zskd.training.state import Companions
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.storage import decode

_PART = 500
"""Images in one forward pass without gradients where they are large, counted as for `logits_in_parts`."""
_STATISTICS_IMAGES = 2000
"""Images that statistics of batch-norm are taken on at most, …"""
_STATISTICS_VALUES = 2**26
"""… and pixel values of all of them together."""


class DistillationBatches:
    """Makes batches of augmented images, the teacher's logits for them, their labels, and what a loss of
    features compares of the teacher's."""

    def __init__(
        self,
        teacher: Classifier,
        transfer_set: TransferSet | None,
        config: DistillConfig,
        features: PairedFeatures | None = None,
    ) -> None:
        """Create batches that do not depend on the weights of a student.

        Args:
            teacher: used as it is. The caller must freeze it before the first batch, and before the batches
                are pickled for a helper process, because the copy there keeps its state.
            transfer_set: images to draw from; None where a generator makes all of them.
            config: loss, augmentation and generator.
            features: paired with those of the student; None where no loss reads them.
        """
        self._teacher, self._set, self._config = teacher, transfer_set, config
        self._features = features
        self._generator: AdversarialGenerator | None = None
        self._image_bank: ImageBank | None = None
        self._images_in_memory: Tensor | None = None

    def attach_student(self, student: Classifier, *, seed: int, steps: int) -> Companions:
        """Create the adversarial generator and the image bank, where the settings use them.

        Args:
            student: the network in training.
            seed: of everything that is generated for it.
            steps: of the student in all.

        Returns:
            The modules that change with the batches, by their names in the state file.

        Raises:
            ZskdError: unknown generator method, or one that does not fit the teacher.
        """
        teacher, config = self._teacher, self._config
        companions: Companions = {}
        if config.generator.share:
            method = make_generator_method(config.generator.method, config.generator.method_settings)
            self._generator = AdversarialGenerator(
                teacher,
                student,
                method,
                config.generator,
                seed=seed,
                steps=steps,
                augmentation=config.augment,
            )
            companions = {**companions, **self._generator.companions}
        if config.image_bank.share:
            self._image_bank = ImageBank(teacher, student, config, self._draw, seed=seed, steps=steps)
            companions = {**companions, **self._image_bank.companions}
        return companions

    def __call__(self, rows: Tensor, rng: Generator) -> Batch:
        """Return a batch for rows of the set (N,).

        Args:
            rows: of the set; of each batch, the generator and the image bank replace the first ones.
            rng: random numbers of this step.

        Returns:
            Images (N, C, H, W), the teacher's logits (N, K) or (N, 0) where its loss has no weight, labels
            (N,), and for each pair of features what the loss compares of the teacher's.
        """
        teacher, config = self._teacher, self._config
        parts: list[Images] = []
        if self._generator is not None:
            parts.append(self._generator.images(round(config.generator.share * len(rows))))
        if self._image_bank is not None:
            parts.append(self._image_bank.images(round(config.image_bank.share * len(rows)), rng))
        generated = sum(len(part) for part in parts)
        if generated < len(rows):
            parts.append(self._stored(rows[generated:]))
        images = augment(torch.cat(parts), config.augment, teacher.spec.box, rng)
        labels = rows if self._set is None else self._set.labels[rows]
        labels = labels.to(teacher.device)
        none, most = images.new_empty(len(images), 0), max(len(images), _PART)
        if self._features is not None:
            logits, features = self._features.of_teacher(teacher, images, most)
            return images, logits if config.teacher_weight else none, labels, *features
        if not config.teacher_weight:
            return images, none, labels
        return images, logits_in_parts(teacher, images, most), labels

    def record(self, student: Logits, teacher: Logits) -> None:
        """Tell the generator how far apart the networks are on the last batch.

        Args:
            student: its logits for the last batch (N, K).
            teacher: the same of the teacher.
        """
        if self._generator is not None:
            self._generator.record(student, teacher)

    def images_for_statistics(self, seed: int) -> Iterator[Images]:
        """Yield images, augmented as those of the steps, to take statistics of batch-norm on (N, C, H, W).

        They are of the set, each at most once, or of the generator where there is no set; in large batches.

        Args:
            seed: of the draw and the augmentation.
        """
        rng = torch_stream(seed, "batch-norm", 0)
        for images in self._images_as_they_are(rng):
            yield augment(images, self._config.augment, self._teacher.spec.box, rng)

    def _images_as_they_are(self, rng: Generator) -> Iterator[Images]:
        shape = self._teacher.spec.shape
        most, count = at_once(_PART, shape), min(_STATISTICS_IMAGES, _STATISTICS_VALUES // prod(shape))
        if self._set is None:
            assert self._generator is not None
            yield from torch.split(self._generator.images_for_statistics(count), most)
            return
        for rows in torch.split(torch.randperm(len(self._set), generator=rng)[:count], most):
            yield self._set.images(rows).to(self._teacher.device)

    def __getstate__(self) -> dict[str, Any]:
        """Hold teacher and losses by value: torch would move tensors that are sent to another process, the
        caller's own, to shared memory."""
        return vars(self) | {
            "_teacher": pickle.dumps(self._teacher),
            "_features": pickle.dumps(self._features),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        by_value = {name: pickle.loads(state[name]) for name in ("_teacher", "_features")}
        vars(self).update(state | by_value)

    def fits_helper(self) -> bool:
        """Whether a helper process can make the batches: they do not depend on the student, the teacher is on
        the CPU and can be pickled, and shared memory has room."""
        if self._set is None or self._generator is not None or self._image_bank is not None:
            return False
        batch = self._config.batch_size
        features = 0 if self._features is None else self._features.bytes_of_teacher(batch)
        queued = 8 * (batch * 4 * prod(self._set.shape) + features)
        shared = Path("/dev/shm")
        if self._teacher.device.type != "cpu" or (shared.is_dir() and disk_usage(shared).free < queued):
            return False
        try:
            pickle.dumps((self._teacher, self._features))
        except Exception:  # whatever a user's network raises when it is pickled
            return False
        return True

    def _stored(self, rows: Tensor) -> Images:
        assert self._set is not None
        if self._config.images == "memory" and self._images_in_memory is None:  # in the process that needs it
            self._images_in_memory = self._set.column("images")
        in_memory = self._images_in_memory
        images = self._set.images(rows) if in_memory is None else decode(in_memory[rows])
        return images.to(self._teacher.device)

    def _draw(self, count: int, rng: Generator) -> Images:
        """Return images of the set, augmented as the student receives them (count, C, H, W)."""
        assert self._set is not None
        stored = self._stored(torch.randint(len(self._set), (count,), generator=rng))
        return augment(stored, self._config.augment, self._teacher.spec.box, rng)
