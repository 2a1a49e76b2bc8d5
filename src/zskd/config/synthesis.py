"""Settings of the synthesis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from zskd.config.checks import Config
from zskd.config.names import PixelRuleName, StartName
from zskd.config.registry import PIXEL_RULES, START_IMAGES
from zskd.config.transforms import WarpConfig
from zskd.core.errors import ZskdError


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig(Config):
    """How images are optimised until the teacher outputs their targets."""

    section: ClassVar[str] = "synthesis"

    start: StartName = "shapes"
    """First image: smooth multi-scale noise, random shapes before a plain background, or white noise drawn
    from U(0, 1) or from N(0, 1)."""
    noise_share: float = 0.8
    """Share of the set that stays as it started, without any optimisation."""
    steps: int = 50
    """Most optimisation steps of one impression."""
    tolerance: float = 0.05
    """An impression is finished when the Kullback–Leibler divergence of the teacher's answer from its target
    falls below this many nats, at the temperature `tau`; 0: never before its steps are used up."""
    missed: Literal["keep", "drop"] = "keep"
    """What becomes of an impression that used up its steps and has not met its target; dropped ones are
    not replaced, and the set is smaller."""
    learning_rate: float = 0.1
    """Adam's learning rate, in units of the pixel range."""
    tau: float = 10.0
    """Temperature of the teacher's softmax that is matched to the target."""
    l2: float = 0.0
    """Adds l2/2 times the sum of squared pixels of an image to its loss."""
    pixels: PixelRuleName = "project"
    """Pixels are put back into the input box at every step, or only when stored, or the whole batch is
    stretched to [0, 1] at every step."""
    warp: WarpConfig = field(
        default_factory=lambda: WarpConfig(rotation=15.0, scale=(0.84, 1.2), shift=0.06, shear=0.18)
    )
    """The teacher sees the image under another random map at every step, so that its answer does not
    hang on single pixels."""
    carry_images: bool = False
    """A batch starts from the images of the batch before it, inside one shard."""
    carry_moments: bool = False
    """A batch goes on with Adam's moments and step count of the batch before it, inside one shard."""
    batch_size: int = 100
    """Images optimised together: one that is finished leaves its lane to the next. Part of the result:
    another size rounds otherwise."""
    shard_size: int = 1000
    """Images in one file, the unit of work; with `targets.order: rows` a shard is one row instead."""

    def __post_init__(self) -> None:
        """Refuse sizes and rates that cannot be."""
        super().__post_init__()
        START_IMAGES.check(self.start, self.option("start"))
        PIXEL_RULES.check(self.pixels, self.option("pixels"))
        self.check_range("noise_share", low=0, high=1)
        self.check_range("steps", "tolerance", "l2", low=0)
        self.check_range("learning_rate", "tau", low=0, above=True)
        self.check_range("batch_size", "shard_size", low=1)
        if (self.carry_images or self.carry_moments) and self.noise_share:
            raise ZskdError("--synthesis.noise-share must be 0 where batches carry something on to the next")
        if self.tolerance and (self.carry_images or self.carry_moments or PIXEL_RULES[self.pixels].couples):
            raise ZskdError(
                "--synthesis.tolerance must be 0 where images of a batch share something: with carry-images, "
                "carry-moments and --synthesis.pixels minmax all of a batch take the same steps"
            )
        if self.missed == "drop" and not self.tolerance:
            raise ZskdError(
                "--synthesis.missed drop needs a --synthesis.tolerance: it says which targets are met"
            )
