"""The generator network: images from random vectors, and from targets where it has class input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd.core.types import Images


class Generator(nn.Module):
    """Maps random vectors, and targets, to images inside the box; it enlarges a small feature map twice.

    It is `GeneratorA` of DFAD's code; ZSKT's code has nearly the same. Both end in a batch-norm without
    weights, because their teachers take standardised images; here a sigmoid after it keeps pixels inside the
    box. If a side is no multiple of 4, the second enlargement yields its exact length.

    With class input, gain and offset of every channel after the first two batch-norms depend on the target
    (conditional batch-norm: de Vries et al. 2017, arXiv:1707.00683), and the first layer has no bias. So all
    differences between places of an image come from the random vector: with a class vector beside it as
    input, the generator soon made one image per class.

    Args:
        latent: length of the random vectors.
        width: filters of the last layer but one; the others have twice as many.
        shape: channels, height and width of the images.
        box: least and largest pixel value.
        classes: number of classes K of the targets; 0: no class input.
    """

    turn: Tensor
    """Batches generated so far."""

    def __init__(
        self,
        *,
        latent: int,
        width: int,
        shape: tuple[int, int, int],
        box: tuple[float, float],
        classes: int = 0,
    ) -> None:
        super().__init__()
        channels, height, image_width = shape
        self.latent, self.box, self._size = latent, box, (height, image_width)
        self._small = (-(-height // 4), -(-image_width // 4))
        self.project = nn.Linear(latent, 2 * width * self._small[0] * self._small[1], bias=not classes)
        self.norm0 = nn.BatchNorm2d(2 * width)
        self.conv1 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(channels, affine=False)
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))
        self.class0 = _ByClass(classes, 2 * width) if classes else None
        self.class1 = _ByClass(classes, 2 * width) if classes else None

    def forward(self, latents: Tensor, targets: Tensor | None = None) -> Images:
        """Return images (N, C, H, W) inside the box.

        Args:
            latents: random vectors (N, latent).
            targets: (N, K); None without class input.
        """
        maps = self.norm0(self.project(latents).view(len(latents), -1, *self._small))
        if self.class0 is not None:
            maps = self.class0(maps, targets)
        maps = self.norm1(self.conv1(F.interpolate(maps, scale_factor=2.0)))
        if self.class1 is not None:
            maps = self.class1(maps, targets)
        maps = F.leaky_relu(maps, 0.2)
        maps = F.interpolate(maps, size=self._size)
        maps = F.leaky_relu(self.norm2(self.conv2(maps)), 0.2)
        low, high = self.box
        return low + (high - low) * torch.sigmoid(self.norm3(self.conv3(maps)))


class _ByClass(nn.Module):
    """Gain and offset of each channel by the target."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(1 + 0.5 * torch.randn(classes, channels))
        self.offset = nn.Parameter(0.5 * torch.randn(classes, channels))

    def forward(self, maps: Tensor, targets: Tensor) -> Tensor:
        """Return maps (N, C, h, w), changed by targets (N, K)."""
        return maps * (targets @ self.gain)[:, :, None, None] + (targets @ self.offset)[:, :, None, None]
