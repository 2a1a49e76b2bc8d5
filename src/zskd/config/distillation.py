"""Settings of the distillation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from cyclopts import Parameter

from zskd.config.checks import Config, MethodSettings, as_fields
from zskd.config.groups import AUGMENTATION, DISTILLATION, FEATURES, GENERATOR, IMAGE_BANK, RUN
from zskd.config.names import FeatureLossName, GeneratorMethodName, LossName, OptimiserName
from zskd.config.registry import FEATURE_LOSSES, GENERATOR_METHODS, LOSSES
from zskd.config.sources import FreshConfig, PicturesConfig, ReplayConfig
from zskd.config.training import FitConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.core.precision import Precision

_ROUNDING = 1e-9
"""Largest rounding error of a sum of shares."""
_STEPS = 4000
_MOST_CHANNELS = 65536
"""Of a generator's input and of its layers; one of more than any memory ended in a traceback."""


@Parameter(group=GENERATOR)
@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(Config):
    """An adversarial generator: it learns to make images on which student and teacher differ."""

    section: ClassVar[str] = "distill.generator"

    share: float = 0.0
    """Share of generated images in each batch, 0 to 1; the rest are of the transfer set. 1 needs no set."""
    method: GeneratorMethodName = "dfad"
    """Objective of the generator."""
    method_settings: MethodSettings = field(default_factory=dict, hash=False)
    """Settings of this method only: `--distill.generator.method-settings.entropy 5`."""
    student_steps: int = 5
    """Training steps of the student for each step of the generator."""
    same: bool = False
    """Give the student the same random vectors in all these steps, those of the generator's step, instead of
    new ones in each."""
    latent: int = 100
    """Length of the random input vectors of the generator."""
    style: int = 0
    """How many numbers of the random vector set gain and offset of all channels of an image, so that colours
    and textures differ between images; below `latent`. 0: none."""
    width: int = 64
    """Filters of the second-to-last layer; earlier layers have twice as many."""
    learning_rate: float = 1e-3
    """Initial learning rate of the generator's Adam."""
    schedule: Literal["cosine", "constant"] = "constant"
    """Schedule of this learning rate: down to 0 along a half cosine, or constant."""
    beta1: float = 0.9
    """β₁ of the generator's Adam, from 0 to below 1."""
    average: float = 0.0
    """Decay of the moving average of the generator's weights that makes the images of the student, from 0 to
    below 1; 0: the weights themselves."""
    augmented: bool = False
    """Augment images in the generator's step as the student's images are, but without MixUp, CutMix and
    JPEG."""
    momentum: float = 0.0
    """Share of earlier batches in the batch statistics that a method compares with those of the teacher's
    batch-norm, from 0 to below 1."""
    renew: int = 0
    """Steps of the generator between two renewals of its first layer with random weights; 0: never."""
    warm_up: int = 0
    """Steps of the generator before the student's first step. In them the generator learns as if student and
    teacher agreed on every image."""
    pool: int = 0
    """Largest number of generated images to keep for later batches, and at most 256 MB of them; new images
    replace the easiest."""
    replay: float = 0.0
    """Share of the generated images of a batch that comes from this pool, 0 to 1: hard ones, and those that
    the student has not received for long. They are not replaced in this step: a pool of no more images does
    not change."""

    def __post_init__(self) -> None:
        """Check shares and sizes."""
        super().__post_init__()
        object.__setattr__(self, "method_settings", as_fields(self.method_settings))
        self.check_range("replay", low=0, high=1)
        self.check_range("renew", "warm_up", "pool", low=0)
        for name in ("beta1", "average", "momentum"):
            self.check_range(name, low=0)
            if getattr(self, name) >= 1:
                raise ZskdError(f"{self.option(name)} is {getattr(self, name)}: it must be below 1")
        GENERATOR_METHODS.check(self.method, self.option("method"))
        self.check_range("share", low=0, high=1)
        self.check_range("student_steps", low=1)
        self.check_range("latent", "width", low=1, high=_MOST_CHANNELS)
        self.check_range("learning_rate", low=0, above=True)
        if self.is_whole:
            self._check_together()

    def _check_together(self) -> None:
        """Check what depends on two settings.

        Raises:
            ZskdError: there is no pool to replay, or the style takes all inputs.
        """
        if self.replay and not self.pool:
            raise ZskdError("--distill.generator.replay needs a pool: give --distill.generator.pool 10000")
        if not 0 <= self.style < self.latent:
            raise ZskdError(
                f"{self.option('style')} is {self.style}: it must be at least 0 and below "
                f"{self.option('latent')}, which is {self.latent}"
            )


@Parameter(group=IMAGE_BANK)
@dataclass(frozen=True, kw_only=True)
class ImageBankConfig(Config):
    """A bank of adversarial images: made in phases of equal length, and used again in later phases."""

    section: ClassVar[str] = "distill.image-bank"

    share: float = 0.0
    """Share of images from the bank in each batch, 0 to 1, from the second phase on."""
    count: int = 10
    """Number of phases of the training."""
    images: int = 3000
    """Images made at the start of each phase, except the first."""
    keep: int = 30000
    """Largest number of images in the bank, and at most 512 MB of them; new images then replace the
    oldest."""
    steps: int = 3
    """Optimisation steps of each image: from an augmented image of the transfer set to one on which student
    and teacher differ."""
    learning_rate: float = 0.03
    """Adam's learning rate in these steps, for pixels in [0, 1]."""

    def __post_init__(self) -> None:
        """Check shares and sizes."""
        super().__post_init__()
        self.check_range("share", low=0, high=1)
        self.check_range("count", "images", "keep", "steps", low=1)
        self.check_range("learning_rate", low=0, above=True)
        if self.is_whole and self.share and self.count < 2:
            raise ZskdError(f"{self.option('count')} must be at least 2: the first phase has no images of it")


@Parameter(group=FEATURES)
@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(Config):
    """A loss of features: layers of the student are pulled to those of the teacher."""

    section: ClassVar[str] = "distill.features"

    loss: FeatureLossName = "attention"
    """How the features of student and teacher are compared."""
    weight: float = 0.0
    """Weight of this loss; 0: features are not read."""
    layers: Literal["stages", "same", "convolutions"] = "stages"
    """Which layers to pair: the ends of stages of the same resolution (or of the same relative depth), only
    those that have the same channels, too, or all convolutions in the order of their use. Where no stages are
    the same, features are not read."""

    def __post_init__(self) -> None:
        """Check the loss and its weight."""
        super().__post_init__()
        FEATURE_LOSSES.check(self.loss, self.option("loss"))
        self.check_range("weight", low=0)


@Parameter(group=DISTILLATION)
@dataclass(frozen=True, kw_only=True)
class DistillConfig(FitConfig):
    """Training of the student on the outputs of the teacher."""

    section: ClassVar[str] = "distill"

    start: Literal["teacher", "random"] = "teacher"
    """Initial weights: `teacher` initialises from the teacher if the student is a narrower or less deep
    copy of it, and at random otherwise; `random` is always at random."""
    steps: Annotated[int | None, Parameter(group=RUN, show_default=False)] = _STEPS
    """Number of training steps; absent: as the preset says. Any but the default overrides `epochs`."""
    optimiser: OptimiserName = "muon"
    learning_rate: float = 0.01
    precision: Precision = "float32"
    """What both networks compute in: bfloat16 is up to twice as fast on processors with instructions for it.
    Weights and losses are float32."""
    compile: Literal["auto", "never"] = "never"
    """Whether to try `torch.compile`: with `auto`, where a training takes more than two minutes, networks are
    timed as they are and compiled, and the faster ones are kept. These may round otherwise."""
    loss: LossName = "kl"
    """Kullback–Leibler divergence of the softened outputs, absolute or squared difference of the logits,
    or cross-entropy with the class that the teacher predicts."""
    tau: float = 2.0
    """Temperature τ of both softmaxes, for `kl`; above 0."""
    tau_squared: bool = True
    """Multiply `kl` by τ², so that its gradient does not shrink with τ."""
    teacher_weight: float = 1.0
    """Weight of this loss; 0: the teacher is not used."""
    label_weight: float = 0.0
    """Weight of the cross-entropy with the labels: the class of a real image, or the anchor class of an
    impression."""
    order: Literal["shuffled", "easy_first", "hard_first", "by_shard"] = "shuffled"
    """Order of the transfer set: `shuffled`, or first from the quarter of its images that the teacher is most
    (`easy_first`) or least sure of, and from all of them in the second half of the training. `by_shard` is
    for sets larger than the memory: files are shuffled, and the images of some of them with each other."""
    window_mb: int = 64
    """Megabytes of images, as stored, that `by_shard` mixes and needs at the same time; at least one file."""
    images: Literal["auto", "memory", "mapped"] = "auto"
    """How to read the transfer set: `memory` copies it once, `mapped` reads its files at every step, `auto`
    is `memory` if the set needs less than half of the free memory. The student is the same."""
    augment: Annotated[AugmentConfig, Parameter(group=AUGMENTATION)] = field(
        default_factory=lambda: AugmentConfig(
            rotation=17.5, scale=(0.81, 1.23), shift=0.07, shear=0.21, mixup=0.125, cutmix=0.125
        )
    )
    """Augmentation of the images."""
    changes: Literal["all", "by_teacher"] = "all"
    """Which changes of `augment` are used: all that are set, or those under which the teacher predicts the
    same class for 60 % of the images: flips, colours, rotation, crop, shift, scale, shear and JPEG. Each is
    measured alone, on up to 1,000 images of the transfer set."""
    batch_norm: Literal["running", "again", "fixed"] = "running"
    """Statistics of the student's batch-norm: `running` averages those of the training batches; `again` takes
    them again at the end, on 2,000 images; `fixed` does so after three quarters of the training, which ends
    with these statistics fixed."""
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    """The loss of features."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    """The adversarial generator."""
    image_bank: ImageBankConfig = field(default_factory=ImageBankConfig)
    """The bank of adversarial images."""
    fresh: FreshConfig = field(default_factory=FreshConfig)
    """Start images, drawn anew."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    """Difficult images of earlier batches."""
    pictures: PicturesConfig = field(default_factory=PicturesConfig)
    """Pictures of the user's."""

    @property
    def needs_set(self) -> bool:
        """Whether the student is trained on images of a transfer set."""
        return self.generator.share < 1

    @property
    def room_of_set(self) -> float:
        """Share of the transfer set in a batch, 0 to 1; pictures of the user's take their shares of it."""
        return max(0.0, 1 - sum(one.share for one in self._sources))

    def shares_of_nothing(self, pictures: Collection[str] = ()) -> list[str]:
        """Return the options of shares that are less than half an image of a batch.

        Args:
            pictures: kinds of the user's pictures, "images" and "few".
        """
        shares = {one.option("share"): one.share for one in self._sources}
        for kind in pictures:
            shares[self.pictures.share_option(kind)] = self.pictures.shares[kind] * self.room_of_set
        return [option for option, share in shares.items() if share and not round(share * self.batch_size)]

    @property
    def options_of_sources(self) -> list[str]:
        """The options of the shares beside the transfer set that are not 0."""
        return [one.option("share") for one in self._sources if one.share]

    @property
    def _sources(self) -> tuple[GeneratorConfig, ImageBankConfig, FreshConfig, ReplayConfig]:
        return self.generator, self.image_bank, self.fresh, self.replay

    @property
    def follows_student(self) -> bool:
        """Whether images depend on the student's weights, so that no helper process can make them."""
        return bool(self.generator.share or self.image_bank.share or self.replay.share)

    def __post_init__(self) -> None:
        """Check the loss, its temperature and weights, and settings that restrict each other."""
        super().__post_init__()
        if self.epochs is not None and self.steps == _STEPS:
            object.__setattr__(self, "steps", None)  # as where a recipe or an option names the epochs
        LOSSES.check(self.loss, self.option("loss"))
        self.check_range("tau", low=0, above=True)
        self.check_range("teacher_weight", "label_weight", low=0)
        self.check_range("window_mb", low=1)
        if self.is_whole:
            self._check_start()
            self._check_sources()
            self._check_weights()

    def _check_start(self) -> None:
        """Check that there are images for the initialisation.

        Raises:
            ZskdError: there are none.
        """
        if self.start == "teacher" and not self.needs_set:
            raise ZskdError(
                "--distill.start must be random where a generator makes all images: initialisation from the "
                "teacher needs images of a transfer set"
            )

    def _check_weights(self) -> None:
        """Check the weights of both losses.

        Raises:
            ZskdError: there is none, or no label for one.
        """
        if not self.teacher_weight and not self.label_weight:
            raise ZskdError(
                "--distill.teacher-weight and --distill.label-weight are both 0: raise one of them"
            )
        if self.label_weight and (self.augment.mixup or self.augment.cutmix):
            raise ZskdError(
                "--distill.label-weight must be 0 where images are mixed, because a mixture has no label; or "
                "give --distill.augment.mixup 0 --distill.augment.cutmix 0"
            )

    def _check_sources(self) -> None:
        """Check the shares of the sources beside the transfer set.

        Raises:
            ZskdError: they sum to more than 1, or there are labels or no logits where these are needed.
        """
        options = self.options_of_sources
        named = f"{', '.join(options[:-1])} and {options[-1]}" if len(options) > 1 else "".join(options)
        if sum(one.share for one in self._sources) > 1 + _ROUNDING:
            raise ZskdError(f"{named} sum to more than 1: lower one")
        if options and self.label_weight:
            raise ZskdError(f"--distill.label-weight must be 0 with {named}: their images have no labels")
        if self.replay.share and not self.teacher_weight:
            raise ZskdError("--distill.replay.share needs the teacher: give --distill.teacher-weight 1")
