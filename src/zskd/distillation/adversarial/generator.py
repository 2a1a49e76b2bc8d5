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

    With style, gain and offset of every channel after all three batch-norms depend on the first numbers of
    the random vector as well, and the last batch-norm has weights. Else all images of a generator, or all of
    a class, soon have the same colours and textures (Karras et al. 2019, arXiv:1812.04948, use such styles
    for their control).

    Args:
        latent: length of the random vectors.
        width: filters of the last layer but one; the others have twice as many.
        shape: channels, height and width of the images.
        box: least and largest pixel value.
        classes: number of classes K of the targets; 0: no class input.
        style: how many numbers of the random vector are the style, below `latent`; the first layer receives
            the others. 0: no style.
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
        style: int = 0,
    ) -> None:
        super().__init__()
        channels, height, image_width = shape
        self.latent, self.box, self._size, self._style = latent, box, (height, image_width), style
        self._small = (-(-height // 4), -(-image_width // 4))
        places = self._small[0] * self._small[1]
        self.project = nn.Linear(latent - style, 2 * width * places, bias=not (classes or style))
        self.norm0 = nn.BatchNorm2d(2 * width)
        self.conv1 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(channels, affine=bool(style))
        self.register_buffer("turn", torch.zeros((), dtype=torch.int64))
        self.class0 = _ByClass(classes, 2 * width) if classes else None
        self.class1 = _ByClass(classes, 2 * width) if classes else None
        self.style0 = _ByStyle(style, 2 * width) if style else None
        self.style1 = _ByStyle(style, 2 * width) if style else None
        self.style2 = _ByStyle(style, width) if style else None

    def forward(self, latents: Tensor, targets: Tensor | None = None) -> Images:
        """Return images (N, C, H, W) inside the box.

        Args:
            latents: random vectors (N, latent).
            targets: (N, K); None without class input.
        """
        style = latents[:, : self._style]
        maps = self.norm0(self.project(latents[:, self._style :]).view(len(latents), -1, *self._small))
        if self.class0 is not None:
            maps = self.class0(maps, targets)
        if self.style0 is not None:
            maps = F.leaky_relu(self.style0(maps, style), 0.2)
        maps = self.norm1(self.conv1(F.interpolate(maps, scale_factor=2.0)))
        if self.class1 is not None:
            maps = self.class1(maps, targets)
        if self.style1 is not None:
            maps = self.style1(maps, style)
        maps = F.leaky_relu(maps, 0.2)
        maps = self.norm2(self.conv2(F.interpolate(maps, size=self._size)))
        if self.style2 is not None:
            maps = self.style2(maps, style)
        maps = F.leaky_relu(maps, 0.2)
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


class _ByStyle(nn.Module):
    """Gain and offset of each channel, linear in the style; at first each has the standard deviation 1."""

    def __init__(self, style: int, channels: int) -> None:
        super().__init__()
        self.gain, self.offset = nn.Linear(style, channels), nn.Linear(style, channels)
        for layer, mean in ((self.gain, 1.0), (self.offset, 0.0)):
            nn.init.normal_(layer.weight, std=style**-0.5)
            nn.init.constant_(layer.bias, mean)

    def forward(self, maps: Tensor, style: Tensor) -> Tensor:
        """Return maps (N, C, h, w), changed by styles (N, style)."""
        gain: Tensor = self.gain(style)
        offset: Tensor = self.offset(style)
        return maps * gain[:, :, None, None] + offset[:, :, None, None]
