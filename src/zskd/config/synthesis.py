"""Settings of the synthesis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from cyclopts import Parameter

from zskd.config.checks import Config
from zskd.config.groups import SYNTHESIS
from zskd.config.names import PixelRuleName, StartName
from zskd.config.registry import PIXEL_RULES, START_IMAGES
from zskd.config.transforms import WarpConfig
from zskd.core.errors import ZskdError
from zskd.core.precision import Precision

_MOST_CANDIDATES = 10_000


@Parameter(group=SYNTHESIS)
@dataclass(frozen=True, kw_only=True)
class SynthesisConfig(Config):
    """How images are optimised until the teacher outputs their targets."""

    section: ClassVar[str] = "synthesis"

    start: StartName = "shapes"
    """Start image: smooth multi-scale noise, random shapes on a plain background, procedural pictures (a
    mixture, or one of its families), or white noise from U(0, 1) or N(0, 1)."""
    candidates: int = 1
    """Start images that are drawn for each one that is kept. With more than 1, those are kept for which the
    teacher predicts the classes in the shares of the anchor classes, the most confident ones first."""
    noise_share: float = 0.8
    """Share of start images in the set, which are not optimised, 0 to 1."""
    steps: int = 50
    """Largest number of optimisation steps of one impression."""
    tolerance: float = 0.05
    """An impression is finished when the Kullback–Leibler divergence between its target and the teacher's
    output, at the temperature `tau`, is below this many nats; 0: every impression takes all steps."""
    missed: Literal["keep", "drop"] = "keep"
    """Whether to keep or drop an impression that misses its target after all steps. Dropped ones are not
    replaced: the set is smaller."""
    learning_rate: float = 0.1
    """Adam's learning rate, for pixels in [0, 1]."""
    learning_rate_search: int = 0
    """How often the learning rate is doubled, or halved, before the set is made, as long as this lowers the
    objective of some impressions by 3 %; 0: it is used as set."""
    tau: float = 10.0
    """Temperature of the teacher's softmax in the loss; above 0."""
    l2: float = 0.0
    """Add l2/2 times the sum of squared pixels of an image to its loss."""
    pixels: PixelRuleName = "project"
    """Clip pixels to the input box at every step, or only when stored, or stretch the whole batch to the box
    at every step."""
    warp: WarpConfig = field(
        default_factory=lambda: WarpConfig(rotation=15.0, scale=(0.84, 1.2), shift=0.06, shear=0.18)
    )
    """At every step, the teacher receives the image under a new random map, so that its output does not
    depend on single pixels."""
    changes: Literal["all", "by_teacher"] = "all"
    """Whether flips of `warp` are used as set, or where the teacher predicts the same class for half of some
    impressions, made without flips, when they are mirrored."""
    carry_images: bool = False
    """A batch starts from the images of the previous batch of its shard."""
    carry_moments: bool = False
    """A batch continues with Adam's moments and step count of the previous batch of its shard."""
    batch_size: int = 100
    """Number of images optimised together: a new image replaces a finished one. It changes results: another
    size rounds differently, and with statistics of batch-norm or `minmax` pixels, which are taken over the
    batch, it makes other images. The default, also if given, is less on a CPU for images larger than 64×64
    pixels, and any number is halved until it fits into the memory; the manifest says what was used."""
    shard_size: int = 1000
    """Images in one file, the unit of parallel work; with `targets.order: rows`, a shard is one row. The
    default, also if given, is four batches for images larger than 64×64 pixels."""
    shard_mb: int = 0
    """Megabytes of one file, instead of `shard_size`: as many full batches as fit, and at least one image. 0:
    `shard_size` holds. A process that makes a file needs some 10 to 40 times as much memory."""
    precision: Precision = "float32"
    """What the teacher computes in while images are optimised: bfloat16 is up to twice as fast on processors
    with instructions for it. Its outputs for finished images are computed in float32."""
    storage: Literal["auto", "float32", "float16", "uint8"] = "auto"
    """How pixels are stored. The teacher's outputs are those for the stored pixels. auto: uint8 (8 bits) for
    images larger than 64×64 pixels, float32 for others, and for methods whose images differ by less."""

    def __post_init__(self) -> None:
        """Check names, sizes and rates, and settings that exclude each other."""
        super().__post_init__()
        START_IMAGES.check(self.start, self.option("start"))
        PIXEL_RULES.check(self.pixels, self.option("pixels"))
        self.check_range("noise_share", low=0, high=1)
        self.check_range("steps", "tolerance", "l2", "shard_mb", "learning_rate_search", low=0)
        self.check_range("learning_rate", "tau", low=0, above=True)
        self.check_range("candidates", low=1, high=_MOST_CANDIDATES)
        self.check_range("batch_size", "shard_size", low=1)
        if self.is_whole:
            self._check_together()

    def _check_together(self) -> None:
        """Check settings that exclude each other.

        Raises:
            ZskdError: two do.
        """
        if (self.carry_images or self.carry_moments) and self.noise_share:
            raise ZskdError("--synthesis.noise-share must be 0 with carry-images or carry-moments: give 0")
        if self.tolerance and (self.carry_images or self.carry_moments or PIXEL_RULES[self.pixels].couples):
            raise ZskdError(
                "--synthesis.tolerance must be 0 with carry-images, carry-moments and --synthesis.pixels "
                "minmax: there, all images of a batch take the same number of steps"
            )
        if self.missed == "drop" and not self.tolerance:
            raise ZskdError(
                "--synthesis.missed drop needs a --synthesis.tolerance above 0, which defines a met target"
            )
