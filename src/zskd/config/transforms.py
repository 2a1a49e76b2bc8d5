"""Settings of random maps and augmentation of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from zskd.config.checks import Config, check_range


@dataclass(frozen=True, kw_only=True)
class WarpConfig(Config):
    """Random affine maps, a new one for each image."""

    section: ClassVar[str] = "synthesis.warp"

    rotation: float = 0.0
    """Largest rotation in degrees, in both directions."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Least and largest magnification."""
    shift: float = 0.0
    """Largest shift as a share of the side of the image, in each direction."""
    shear: float = 0.0
    """Largest shear: shift of the edge of the image as a share of its height."""
    flip: float = 0.0
    """Probability of a horizontal flip, 0 to 1."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.check_range("rotation", "shift", "shear", low=0)
        self.check_range("flip", low=0, high=1)
        self.check_range("scale", low=0, above=True)
        check_range(self.option("scale"), self.scale[0], 0, self.scale[1], above=True)

    @property
    def moves(self) -> bool:
        """Whether any map differs from the identity."""
        identity = (self.rotation, self.shift, self.shear, self.flip) == (0, 0, 0, 0)
        return not (identity and self.scale == (1.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(WarpConfig):
    """Augmentation of each image of a batch; the teacher receives the augmented image, too."""

    section: ClassVar[str] = "distill.augment"

    share: float = 1.0
    """Share of the images that get an affine map, and, drawn independently, that get noise; 0 to 1."""
    outside: Literal["least", "reflection"] = "least"
    """What an affine map takes from outside of an image: the least pixel value, or the image's reflection,
    which keeps the statistics of images that are not dark at their edges."""
    crop: float = 0.0
    """Largest shift by whole pixels, as a share of the side, 0 to 1; the image is reflected at its edges."""
    flip_vertical: float = 0.0
    """Probability of a vertical flip, 0 to 1."""
    brightness: float = 0.0
    """Largest change of brightness, as a share of it, 0 to 1."""
    contrast: float = 0.0
    """Largest change of contrast, as a share of it, 0 to 1."""
    saturation: float = 0.0
    """Largest change of saturation, as a share of it, 0 to 1; for images of three channels."""
    hue: float = 0.0
    """Largest turn of the hue, in turns of the colour circle, 0 to 0.5; for images of three channels."""
    cutout: float = 0.0
    """Share of the images with a square of one random colour in them, 0 to 1."""
    cutout_side: float = 0.5
    """Side of this square, as a share of the side of the image; above 0 and at most 1."""
    salt_pepper: float = 0.0
    """Share of the pixels set to the least or largest value of the box, 0 to 1."""
    gaussian: float = 0.0
    """Standard deviation of added pixel noise, for pixels in [0, 1]."""
    jpeg: float = 0.0
    """Share of the images that are saved as JPEG and read again, 0 to 1; for one or three channels."""
    jpeg_quality: tuple[int, int] = (50, 95)
    """Least and largest quality of these files, 1 to 100."""
    mixup: float = 0.0
    """Share of the images blended with another image of the batch, with a uniform weight; 0 to 1."""
    cutmix: float = 0.0
    """Share of the images that get a rectangle of another image of the batch; 0 to 1."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        self.check_range("share", "salt_pepper", "mixup", "cutmix", low=0, high=1)
        self.check_range("crop", "flip_vertical", "brightness", "contrast", "saturation", low=0, high=1)
        self.check_range("cutout", low=0, high=1)
        self.check_range("hue", low=0, high=0.5)
        self.check_range("cutout_side", low=0, high=1, above=True)
        check_range("--distill.augment.mixup and cutmix together", self.mixup + self.cutmix, 0, 1)
        self.check_range("gaussian", low=0)
        self.check_range("jpeg", low=0, high=1)
        least, most = self.jpeg_quality
        check_range(self.option("jpeg_quality"), least, 1, most)
        check_range(self.option("jpeg_quality"), most, least, 100)

    @property
    def changes(self) -> bool:
        """Whether any image is changed at all."""
        own = self.cutout or self.jpeg or self.mixup or self.cutmix
        return bool((self.share and self.shares) or own or self.crops or self.colours)

    @property
    def shares(self) -> bool:
        """Whether there is a change that only a `share` of the images gets."""
        return bool(self.moves or self.salt_pepper or self.gaussian)

    @property
    def crops(self) -> bool:
        """Whether images are shifted by whole pixels or flipped vertically."""
        return bool(self.crop or self.flip_vertical)

    @property
    def colours(self) -> bool:
        """Whether brightness, contrast, saturation or hue change."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue)
