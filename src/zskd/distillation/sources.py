"""Where the images of a batch come from: each source is a class with a share.

The transfer set fills what the others leave. Of each batch the sources come in the order of `make_sources`,
and the set is last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import final

import torch
from torch import Generator, Tensor

from zskd.config.distillation import DistillConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.device import to_device
from zskd.core.passes import counting
from zskd.core.rng import numpy_stream
from zskd.core.types import Images, Labels
from zskd.data.drawn import draw_start_images
from zskd.data.transforms import augment
from zskd.distillation.adversarial.base import make_generator_method
from zskd.distillation.adversarial.generator_steps import AdversarialGenerator
from zskd.distillation.adversarial.image_bank import ImageBank
from zskd.distillation.pool import ImagePool
from zskd.models.classifier import Classifier
from zskd.training.state import Companions
from zskd.transfer_set.dataset import TransferSet

_SEEDS = 2**62
"""Different start images that a batch can draw."""
_STRONG = AugmentConfig(
    crop=0.125, rotation=10.0, scale=(0.85, 1.18), brightness=0.3, contrast=0.3, cutout=0.25, cutout_side=0.4
)
"""Changes of a few pictures, besides those of the settings; no flips or hues: not every task allows them."""
Draw = Callable[[int, Generator], Images]
"""(count, random numbers) → augmented images of the transfer set (count, C, H, W)."""


class Source(ABC):
    """Images for a share of each batch.

    Attributes:
        labels: of the last images (N,), int64; None where they have none.
        share: of the batch, 0 to 1.
        companions: modules that change with the batches, by their names in the state file.
    """

    learns: bool = False
    """Whether `learn` is of use."""
    labels: Labels | None = None

    def __init__(self, share: float, companions: Companions | None = None) -> None:
        self.share, self.companions = share, companions or {}

    @abstractmethod
    def images(self, count: int, rng: Generator) -> Images:
        """Return at most `count` images for the next step (N, C, H, W), inside the teacher's input box.

        Where there are fewer, the transfer set fills the batch.

        Args:
            count: images wanted.
            rng: random numbers of this step, on the CPU.
        """

    def learn(self, images: Images, divergence: Tensor, own: slice) -> None:  # noqa: B027
        """Receive how far the student was from the teacher on the last batch.

        Args:
            images: of the batch, of all sources, before their augmentation (N, C, H, W).
            divergence: KL(T ‖ S) on each of them, augmented (N,), in nats.
            own: which of them are of this source.
        """


@final
class Generated(Source):
    """Images of an adversarial generator."""

    def __init__(self, generator: AdversarialGenerator, share: float) -> None:
        super().__init__(share, generator.companions)
        self.generator, self.learns = generator, generator.learns

    def images(self, count: int, rng: Generator) -> Images:
        """As for `Source`; the generator has its own random numbers."""
        with counting("generator"):
            return self.generator.images(count)

    def learn(self, images: Images, divergence: Tensor, own: slice) -> None:
        """As for `Source`; the pool shows the most difficult images again."""
        self.generator.record(divergence[own])


@final
class Banked(Source):
    """Images of an adversarial image bank; none in its first phase."""

    def __init__(self, bank: ImageBank, share: float) -> None:
        super().__init__(share, bank.companions)
        self._bank = bank

    def images(self, count: int, rng: Generator) -> Images:
        """As for `Source`."""
        with counting("image_bank"):
            return self._bank.images(count, rng)


@final
class Fresh(Source):
    """Start images, drawn anew for every batch."""

    def __init__(self, teacher: Classifier, config: DistillConfig, *, seed: int) -> None:
        super().__init__(config.fresh.share)
        self._start, self._seed, self._spec, self._device = (
            config.fresh.start,
            seed,
            teacher.spec,
            teacher.device,
        )

    def images(self, count: int, rng: Generator) -> Images:
        """As for `Source`; the step's random numbers choose the streams of the images."""
        if not count:
            return torch.empty(0, *self._spec.shape, device=self._device)
        chosen: list[int] = torch.randint(_SEEDS, (count,), generator=rng).tolist()
        streams = [numpy_stream(self._seed, "fresh", index) for index in chosen]
        shape, box = self._spec.shape, self._spec.box
        drawn = draw_start_images(self._start, streams, shape, box, option="--distill.fresh.start")
        return to_device(drawn.clamp(*box), self._device)


@final
class Replayed(Source):
    """Difficult images of earlier batches; none before the first."""

    learns = True

    def __init__(self, teacher: Classifier, config: DistillConfig) -> None:
        self._pool = ImagePool(config.replay.keep, teacher.spec.shape, teacher.spec.box)
        self._device = teacher.device
        super().__init__(config.replay.share, {"replay": (self._pool, None)})

    def images(self, count: int, rng: Generator) -> Images:
        """As for `Source`; difficult and long unseen ones first."""
        self._rows = self._pool.draw(count, rng)
        return to_device(self._pool.read(self._rows), self._device)

    def learn(self, images: Images, divergence: Tensor, own: slice) -> None:
        """As for `Source`; the most difficult images are kept."""
        self._pool.record(self._rows, divergence[own])
        new, of_new = (torch.cat([value[: own.start], value[own.stop :]]) for value in (images, divergence))
        self._pool.offer(new, of_new)


@final
class Pictured(Source):
    """Pictures of the user's, each as likely as any other."""

    def __init__(
        self, teacher: Classifier, pictures: TransferSet, share: float, change: AugmentConfig | None = None
    ) -> None:
        super().__init__(share)
        self._pictures, self._change, self._box = pictures, change, teacher.spec.box
        self._device = teacher.device

    def images(self, count: int, rng: Generator) -> Images:
        """As for `Source`; their labels are those of their set."""
        rows = torch.randint(len(self._pictures), (count,), generator=rng)
        self.labels = self._pictures.labels[rows]
        drawn = to_device(self._pictures.images(rows), self._device)
        return drawn if self._change is None else augment(drawn, self._change, self._box, rng)


def check_generator(teacher: Classifier, config: DistillConfig) -> None:
    """Refuse a generator method that does not fit the teacher, before anything is made for it.

    Args:
        teacher: left as it is.
        config: settings; without a generator's share in them all is well.

    Raises:
        ZskdError: unknown generator method or settings, or it reads layers that the teacher does not have.
    """
    generator = config.generator
    if generator.share:
        make_generator_method(generator.method, generator.method_settings).check_teacher(teacher)


def make_sources(
    teacher: Classifier,
    student: Classifier,
    config: DistillConfig,
    draw: Draw,
    pictures: Mapping[str, TransferSet],
    *,
    seed: int,
    steps: int,
) -> list[Source]:
    """Return the sources that the settings give a share, in their order in a batch.

    Args:
        teacher: frozen.
        student: the network in training.
        config: the shares and all else about the sources.
        draw: returns augmented images of the transfer set, which the image bank starts from.
        pictures: of the user's, "images" and "few".
        seed: of everything that is generated for the student.
        steps: of the student in all.

    Raises:
        ZskdError: unknown generator method, or one that does not fit the teacher.
    """
    made: list[Source] = []
    if config.generator.share:
        method = make_generator_method(config.generator.method, config.generator.method_settings)
        generator = AdversarialGenerator(
            teacher,
            student,
            method,
            config.generator,
            seed=seed,
            steps=steps,
            augmentation=config.augment,
        )
        made.append(Generated(generator, config.generator.share))
    if config.image_bank.share:
        bank = ImageBank(teacher, student, config, draw, seed=seed, steps=steps)
        made.append(Banked(bank, config.image_bank.share))
    if config.fresh.share:
        made.append(Fresh(teacher, config, seed=seed))
    if config.replay.share:
        made.append(Replayed(teacher, config))
    for kind, share in config.pictures.shares.items():
        if kind in pictures and share:
            change = _STRONG if kind == "few" else None
            made.append(Pictured(teacher, pictures[kind], config.room_of_set * share, change))
    return made


def draw_from(sources: Sequence[Source], size: int, rng: Generator) -> list[Images]:
    """Return the images of each source for a batch of `size`: its share, as long as there is room.

    Args:
        sources: in their order in the batch.
        size: images in the batch; what is left of them is for the transfer set.
        rng: random numbers of this step.
    """
    drawn: list[Images] = []
    left = size
    for source in sources:
        drawn.append(source.images(min(round(source.share * size), left), rng))
        left -= len(drawn[-1])
    return drawn
