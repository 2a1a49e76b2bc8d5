"""The generator network: images from random vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd.core.types import Images


class Generator(nn.Module):
    """Maps random vectors to images inside the input box; it enlarges a small feature map twice.

    It is `GeneratorA` of DFAD's code; ZSKT's code has nearly the same. Both end in a batch-norm without
    weights, because their teachers take standardised images; here a sigmoid after it keeps pixels inside the
    box. If a side is no multiple of 4, the second enlargement yields its exact length.

    Args:
        latent: length of the random vectors.
        width: filters of the last layer but one; the others have twice as many.
        shape: channels, height and width of the images.
        box: least and largest pixel value.
    """

    turn: Tensor
    """Batches generated so far."""

    def __init__(
        self, *, latent: int, width: int, shape: tuple[int, int, int], box: tuple[float, float]
    ) -> None:
        super().__init__()
        channels, height, image_width = shape
        self.latent, self.box, self._size = latent, box, (height, image_width)
        self._small = (-(-height // 4), -(-image_width // 4))
        self.project = nn.Linear(latent, 2 * width * self._small[0] * self._small[1])
        self.norm0 = nn.BatchNorm2d(2 * width)
        self.conv1 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(channels, affine=False)
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))

    def forward(self, latents: Tensor) -> Images:
        """Return images (N, C, H, W) inside the box from vectors (N, latent)."""
        maps = self.norm0(self.project(latents).view(len(latents), -1, *self._small))
        maps = F.interpolate(maps, scale_factor=2.0)
        maps = F.leaky_relu(self.norm1(self.conv1(maps)), 0.2)
        maps = F.interpolate(maps, size=self._size)
        maps = F.leaky_relu(self.norm2(self.conv2(maps)), 0.2)
        low, high = self.box
        return low + (high - low) * torch.sigmoid(self.norm3(self.conv3(maps)))
