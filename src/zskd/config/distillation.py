"""Settings of the distillation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from zskd.config.checks import Config
from zskd.config.names import GeneratorMethodName, LossName, OptimiserName
from zskd.config.registry import GENERATOR_METHODS, LOSSES
from zskd.config.training import FitConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(Config):
    """A generator that plays against the student: it looks for images on which student and teacher differ."""

    section: ClassVar[str] = "distill.generator"

    share: float = 0.0
    """Share of each batch that it makes; the rest are images of the transfer set, which 1 does without."""
    method: GeneratorMethodName = "dfad"
    """What the generator is trained for."""
    student_steps: int = 5
    """Steps of the student for each one of the generator."""
    same: bool = False
    """In all of them the student sees what the generator learned from, and no images that are new at each."""
    latent: int = 100
    """Length of the random vectors that images are made of."""
    width: int = 64
    """Filters of its last layer but one; the others have twice as many."""
    learning_rate: float = 1e-3
    """Adam's learning rate at the start."""
    schedule: Literal["cosine", "constant"] = "constant"
    """How it goes on."""

    def __post_init__(self) -> None:
        """Refuse shares and sizes that cannot be."""
        super().__post_init__()
        GENERATOR_METHODS.check(self.method, self.option("method"))
        self.check_range("share", low=0, high=1)
        self.check_range("student_steps", "latent", "width", low=1)
        self.check_range("learning_rate", low=0, above=True)


@dataclass(frozen=True, kw_only=True)
class ImageBankConfig(Config):
    """Images made against the student as it is, in rounds of equal length, and shown again in later ones."""

    section: ClassVar[str] = "distill.image-bank"

    share: float = 0.0
    """Share of each batch that is of earlier rounds, from the second on."""
    count: int = 10
    """Rounds that the training is cut into."""
    images: int = 3000
    """Images that are made at the beginning of each round but the first."""
    keep: int = 30000
    """At most so many are kept; after that the oldest make room."""
    steps: int = 3
    """Steps that each takes, from an image of the transfer set, changed at random, to where student and
    teacher differ."""
    learning_rate: float = 0.03
    """Adam's learning rate of these steps, in units of the pixel range."""

    def __post_init__(self) -> None:
        """Refuse shares and sizes that cannot be."""
        super().__post_init__()
        self.check_range("share", low=0, high=1)
        self.check_range("count", "images", "keep", "steps", low=1)
        self.check_range("learning_rate", low=0, above=True)


@dataclass(frozen=True, kw_only=True)
class DistillConfig(FitConfig):
    """How the student learns from the teacher on the transfer set."""

    section: ClassVar[str] = "distill"

    start: Literal["teacher", "random"] = "teacher"
    """First weights: what the student can take over from the teacher, where it is a narrower copy of it, and
    random ones elsewhere; or random ones in any case."""
    steps: int | None = 4000
    optimiser: OptimiserName = "muon"
    learning_rate: float = 0.01
    loss: LossName = "kl"
    """Kullback–Leibler divergence of the softened answers, absolute or squared difference of the logits,
    or cross-entropy with the teacher's class alone."""
    tau: float = 2.0
    """Temperature of both softmaxes, for `kl`."""
    tau_squared: bool = True
    """Multiplies `kl` by τ², so that its gradient does not shrink with τ."""
    teacher_weight: float = 1.0
    """Weight of that loss; 0: the teacher is not asked."""
    label_weight: float = 0.0
    """Weight of the cross-entropy with the labels: what a real image shows, or the class that an impression
    was made for."""
    images: Literal["auto", "memory", "mapped"] = "auto"
    """Where the transfer set is read from: copied into memory once, or from its mapped files at every step.
    auto: the first when it takes less than half of the memory that is free. The student is the same."""
    augment: AugmentConfig = field(
        default_factory=lambda: AugmentConfig(
            rotation=17.5, scale=(0.81, 1.23), shift=0.07, shear=0.21, mixup=0.125, cutmix=0.125
        )
    )
    """Random changes of the images."""
    attention: float = 0.0
    """Weight of attention transfer: the difference between where student and teacher look."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    """A generator that plays against the student."""
    image_bank: ImageBankConfig = field(default_factory=ImageBankConfig)
    """Images made against the student as it is."""

    @property
    def needs_set(self) -> bool:
        """Whether the student sees any image of a transfer set."""
        return self.generator.share < 1

    def __post_init__(self) -> None:
        """Refuse a temperature of 0, and losses that cannot be."""
        super().__post_init__()
        LOSSES.check(self.loss, self.option("loss"))
        self.check_range("tau", low=0, above=True)
        self.check_range("teacher_weight", "label_weight", "attention", low=0)
        if self.start == "teacher" and not self.needs_set:
            raise ZskdError(
                "--distill.start must be random where a generator makes all images: what is taken over from "
                "the teacher is fitted on images of a set"
            )
        if self.generator.share + self.image_bank.share > 1:
            raise ZskdError(
                "--distill.generator.share and --distill.image-bank.share are more than a batch: lower one"
            )
        if (self.generator.share or self.image_bank.share) and self.label_weight:
            raise ZskdError(
                "--distill.label-weight must be 0 with --distill.generator.share or "
                "--distill.image-bank.share: their images have no labels"
            )
        if not self.teacher_weight and not self.label_weight:
            raise ZskdError(
                "--distill.teacher-weight and --distill.label-weight are both 0: give one of them"
            )
        if self.label_weight and (self.augment.mixup or self.augment.cutmix):
            raise ZskdError(
                "--distill.label-weight must be 0 where images are mixed: the teacher can be asked about a "
                "mixture, and a label tells nothing of it; or give --distill.augment.mixup 0 "
                "--distill.augment.cutmix 0"
            )
