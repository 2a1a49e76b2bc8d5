"""Pixel rules: what happens to pixels that leave the input box. Each changes a batch in place."""

from __future__ import annotations

from collections.abc import Callable

from zskd.core.types import Images

PixelRule = Callable[[Images, tuple[float, float]], None]
"""(images, box) → nothing; called after every step."""


def project(images: Images, box: tuple[float, float]) -> None:
    """Put every pixel back into the box."""
    images.clamp_(*box)


def free(images: Images, box: tuple[float, float]) -> None:
    """Leave them; they are put back when the image is stored."""


def minmax(images: Images, box: tuple[float, float]) -> None:
    """Stretch the whole batch: its smallest pixel becomes the low end of the box, its largest the high end.

    The authors' release does so, and thereby couples the images of a batch.
    """
    low, high = images.min(), images.max()
    images.sub_(low).div_((high - low).clamp_min(1e-12)).mul_(box[1] - box[0]).add_(box[0])
