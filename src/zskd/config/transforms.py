"""Settings of random changes of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zskd.config.checks import Config, check_range


@dataclass(frozen=True, kw_only=True)
class WarpConfig(Config):
    """Random affine maps, another one for every image."""

    section: ClassVar[str] = "synthesis.warp"

    rotation: float = 0.0
    """Largest rotation in degrees, either way."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Least and largest magnification."""
    shift: float = 0.0
    """Largest shift as a share of the image's side, in each direction."""
    shear: float = 0.0
    """Largest shear: how far the picture's edge moves, as a share of its height."""
    flip: float = 0.0
    """Probability of a mirrored image."""

    def __post_init__(self) -> None:
        """Refuse impossible magnitudes."""
        super().__post_init__()
        self.check_range("rotation", "shift", "shear", low=0)
        self.check_range("flip", low=0, high=1)
        check_range(self.option("scale"), self.scale[0], 0, self.scale[1], above=True)

    @property
    def moves(self) -> bool:
        """Whether any image is changed at all."""
        still = (self.rotation, self.shift, self.shear, self.flip) == (0, 0, 0, 0)
        return not (still and self.scale == (1.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(WarpConfig):
    """Random changes of each image of a batch; the teacher sees the changed image, too."""

    section: ClassVar[str] = "distill.augment"

    share: float = 1.0
    """Share of the images that are moved, and, drawn apart, of those that are made noisy."""
    salt_pepper: float = 0.0
    """Share of the pixels set to the ends of the box."""
    gaussian: float = 0.0
    """Standard deviation of added pixel noise."""
    mixup: float = 0.0
    """Share of the images blended with another one of the batch, with a uniform weight."""
    cutmix: float = 0.0
    """Share of the images that get a rectangle of another one of the batch."""

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1]."""
        super().__post_init__()
        self.check_range("share", "salt_pepper", "mixup", "cutmix", low=0, high=1)
        check_range("--distill.augment.mixup and cutmix together", self.mixup + self.cutmix, 0, 1)
        self.check_range("gaussian", low=0)

    @property
    def changes(self) -> bool:
        """Whether any image is changed at all."""
        noisy = self.salt_pepper or self.gaussian
        return bool(self.share and (self.moves or noisy)) or bool(self.mixup or self.cutmix)
