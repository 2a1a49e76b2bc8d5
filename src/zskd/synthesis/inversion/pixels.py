"""Pixel rules: what happens to pixels that leave the input box. Each changes a batch in place."""

from __future__ import annotations

from collections.abc import Callable

from zskd.core.types import Images

PixelRule = Callable[[Images, tuple[float, float]], None]
"""(images (N, C, H, W), box) → None; called after every step."""


def project(images: Images, box: tuple[float, float]) -> None:
    """Clamp every pixel to the box."""
    images.clamp_(*box)


def free(images: Images, box: tuple[float, float]) -> None:
    """Change nothing; pixels are clamped when the image is stored."""


def minmax(images: Images, box: tuple[float, float]) -> None:
    """Rescale the whole batch: its least pixel becomes the lower end of the box, its largest the upper end.

    The authors' release does this; it couples the images of a batch.
    """
    low, high = images.min(), images.max()
    images.sub_(low).div_((high - low).clamp_min(1e-12)).mul_(box[1] - box[0]).add_(box[0])
