"""The batches of a distillation: augmented images with the teacher's logits and features, and labels."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from shutil import disk_usage
from typing import Any

import torch
from torch import Generator, Tensor

from zskd.config.distillation import DistillConfig
from zskd.core.device import to_device
from zskd.core.memory import at_once
from zskd.core.passes import counting
from zskd.core.precision import computing_in
from zskd.core.ranks import ALONE, Ranks
from zskd.core.rng import torch_stream
from zskd.core.types import Images
from zskd.data.transforms import augment
from zskd.distillation.features.paired import PairedFeatures
from zskd.distillation.sources import Generated, Source, draw_from, make_sources
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
        pictures: Mapping[str, TransferSet] | None = None,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        """Create batches that do not depend on the weights of a student.

        Args:
            teacher: used as it is. The caller must freeze it before the first batch, and before the batches
                are pickled for a helper process, because the copy there keeps its state.
            transfer_set: images to draw from; None where a generator makes all of them.
            config: loss, augmentation and generator.
            features: paired with those of the student; None where no loss reads them.
            pictures: of the user's, "images" and "few".
            ranks: of the training. Each draws the same images and changes of the whole batch, because MixUp
                and CutMix join any two, and shows its own part to the teacher.
        """
        self._ranks = ranks
        self._teacher, self._set, self._config = teacher, transfer_set, config
        self._features, self._pictures = features, pictures or {}
        self._sources: list[Source] = []
        self._last: list[Images] = []
        self._images_in_memory: Tensor | None = None

    def attach_student(self, student: Classifier, *, seed: int, steps: int) -> Companions:
        """Create the sources that the settings give a share beside the transfer set.

        Args:
            student: the network in training.
            seed: of everything that is generated for it.
            steps: of the student in all.

        Returns:
            The modules that change with the batches, by their names in the state file.

        Raises:
            ZskdError: unknown generator method, or one that does not fit the teacher.
        """
        self._sources = make_sources(
            self._teacher, student, self._config, self._draw, self._pictures, seed=seed, steps=steps
        )
        return {name: one for source in self._sources for name, one in source.companions.items()}

    def __call__(self, rows: Tensor, rng: Generator) -> Batch:
        """Return a batch for rows of the set (N,).

        Args:
            rows: of the set; of each batch, the other sources replace the first ones.
            rng: random numbers of this step.

        Returns:
            For this rank's part of them, images (N, C, H, W), the teacher's logits (N, K) or (N, 0) where
            its loss has no weight, labels (N,), and for each pair of features what the loss compares of the
            teacher's.
        """
        # in a helper process nothing is around it
        with counting("distillation", teacher=self._teacher), computing_in(self._config.precision):
            return self._batch(rows, rng)

    def _batch(self, rows: Tensor, rng: Generator) -> Batch:
        teacher, config = self._teacher, self._config
        parts = draw_from(self._sources, len(rows), rng)
        others = sum(len(part) for part in parts)
        if others < len(rows):
            parts.append(self._stored(rows[others:]))
        if self._config.follows_student:
            self._last = parts
        images = augment(torch.cat(parts), config.augment, teacher.spec.box, rng)
        labels = to_device(self._labels(rows, parts), teacher.device)
        if self._ranks.several:
            part = self._ranks.part(len(rows))
            images, labels = images[part], labels[part]
        none, most = images.new_empty(len(images), 0), max(len(images), _PART)
        if self._features is not None:
            logits, features = self._features.of_teacher(teacher, images, most)
            return images, logits if config.teacher_weight else none, labels, *features
        if not config.teacher_weight:
            return images, none, labels
        return images, logits_in_parts(teacher, images, most), labels

    def _labels(self, rows: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """Return the label of each image (N,): of its source, or of its row of the set; any without both."""
        labels = rows.clone() if self._set is None else self._set.labels[rows]
        begin = 0
        for source, part in zip(self._sources, parts, strict=False):
            if source.labels is not None:
                labels[begin : begin + len(part)] = source.labels
            begin += len(part)
        return labels

    @property
    def learns(self) -> bool:
        """Whether a source is to be told how far the student was from the teacher."""
        return any(source.learns for source in self._sources)

    def learn(self, divergence: Tensor) -> None:
        """Tell the sources of the last batch how far the student was from the teacher on it.

        Args:
            divergence: KL(T ‖ S) of each image (N,), in nats.
        """
        images, end = torch.cat(self._last), 0
        for source, part in zip(self._sources, self._last, strict=False):
            begin, end = end, end + len(part)
            source.learn(images, divergence, slice(begin, end))

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
            (generated,) = (one for one in self._sources if isinstance(one, Generated))
            yield from _parts(generated.generator.images_for_statistics(count), most)
            return
        for rows in _parts(torch.randperm(len(self._set), generator=rng)[:count], most):
            yield to_device(self._set.images(rows), self._teacher.device)

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
        if self._set is None or self._config.follows_student:
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
        in_memory, device = self._images_in_memory, self._teacher.device
        if in_memory is None:
            return to_device(self._set.images(rows), device)
        return decode(to_device(in_memory[rows], device))

    def _draw(self, count: int, rng: Generator) -> Images:
        """Return images of the set, augmented as the student receives them (count, C, H, W)."""
        assert self._set is not None
        stored = self._stored(torch.randint(len(self._set), (count,), generator=rng))
        return augment(stored, self._config.augment, self._teacher.spec.box, rng)


def _parts(values: Tensor, most: int) -> Sequence[Tensor]:
    """Split values (N, …) into parts of at most so many, nearly equal ones where the last would be a single
    image: batch-norm may take no statistics of one."""
    if len(values) > most and len(values) % most == 1:
        return torch.tensor_split(values, -(-len(values) // most))
    return torch.split(values, most)
