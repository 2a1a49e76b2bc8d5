"""Images as they come back from a JPEG file: most images that a student will meet were saved as one."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from zskd.config.transforms import AugmentConfig
from zskd.core.device import to_device
from zskd.core.levels import from_levels, to_levels
from zskd.core.types import Images

_MODES = {1: "L", 3: "RGB"}
"""Numbers of channels that a JPEG file can hold here, with Pillow's name."""


def save_as_jpeg(
    images: Images, config: AugmentConfig, box: tuple[float, float], generator: Generator
) -> Images:
    """Return some of the images (N, C, H, W) with what a JPEG file leaves of them; the others as they are.

    Pillow writes and reads each file, with a quality of its own and colours at half the resolution, as its
    default is. Images that have neither one channel nor three stay as they are.

    Args:
        images: pixels in the box, on any device; they are rounded to 8 bits.
        config: the share of the images, and the range of qualities.
        box: least and largest pixel value.
        generator: on the CPU.
    """
    touched = torch.rand(len(images), generator=generator) < config.jpeg
    least, most = config.jpeg_quality
    qualities = torch.randint(least, most + 1, (len(images),), generator=generator)
    mode = _MODES.get(images.shape[1])
    if mode is None:
        return images
    chosen = touched.nonzero().squeeze(1)
    there = to_device(chosen, images.device)
    pixels = to_levels(images[there], box).cpu().movedim(1, -1).squeeze(-1)
    drawn = zip(pixels, qualities[chosen].tolist(), strict=True)
    saved = [_through_a_file(one, quality, mode) for one, quality in drawn]
    changed = images.clone()
    if saved:
        back = torch.stack(saved).view(len(saved), *images.shape[2:], -1).movedim(-1, 1)
        changed[there] = from_levels(to_device(back, images.device), box, images.dtype).clamp(*box)
    return changed


def _through_a_file(pixels: Tensor, quality: int, mode: str) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(pixels.numpy(), mode).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as image:
        return torch.from_numpy(np.array(image))
