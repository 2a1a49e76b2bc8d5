"""Residual networks (He et al. 2016): for small images, and the two smaller ones for ImageNet.

The names of the layers are those of github.com/akamaster/pytorch_resnet_cifar10 (`conv1.weight`,
`layer1.0.conv1.weight`, …, `linear.weight`) and of torchvision (`layer2.0.downsample.0.weight`, …,
`fc.weight`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from zskd.core.errors import ZskdError
from zskd.models.networks.parts import (
    Norm,
    Size,
    Width,
    check_size,
    conv,
    he_weights,
    norm_layer,
    scale,
    start_near_identity,
)

_BOTTLENECK = (50, 152)
"""Depths 6n + 2 that everybody takes for ImageNet's networks of another kind of block."""


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut.

    Args:
        before: channels of the input.
        after: channels of the output.
        stride: of the first convolution.
        norm: normalisation after each convolution.
        shortcut: makes the output's shape of the input where they differ; None: the identity.
    """

    def __init__(self, before: int, after: int, stride: int, norm: Norm, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = conv(before, after, 3, norm=norm, stride=stride)
        self.bn1 = norm_layer(norm, after)
        self.conv2 = conv(after, after, 3, norm=norm)
        self.bn2 = norm_layer(norm, after)
        self.downsample = shortcut

    def forward(self, images: Tensor) -> Tensor:
        """Return the output (N, C', H', W') for images (N, C, H, W)."""
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(images)))))
        return F.relu(branch + (images if self.downsample is None else self.downsample(images)))


class PaddedShortcut(nn.Module):
    """Shortcut without parameters (option A): every second pixel, and new channels of zeros on both sides.

    Args:
        before: channels of the input.
        after: channels of the output, at least as many.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.front = (after - before) // 2
        self.back = after - before - self.front

    def forward(self, images: Tensor) -> Tensor:
        """Return the output (N, C', ⌈H/2⌉, ⌈W/2⌉) for images (N, C, H, W)."""
        return F.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, self.front, self.back))


def resnet(
    channels: int = 3,
    classes: int = 10,
    size: Size = 32,
    *,
    depth: Annotated[int, Field(ge=8, le=1202)] = 20,
    width: Width = 1.0,
    norm: Norm = "batch",
) -> nn.Sequential:
    """ResNet for small images (section 4.2): 269,722 parameters for depth 20, ten classes and three channels.

    Args:
        channels: of the images.
        classes: number of classes K.
        size: of the images, at least 2 pixels.
        depth: layers with weights, 6n + 2.
        width: factor of all numbers of channels: 16, 32, 64.
        norm: normalisation after each convolution.

    Raises:
        ZskdError: there is no network of this depth, or the images are too small.
    """
    if depth in _BOTTLENECK:
        raise ZskdError(
            f"resnet{depth} is a network for ImageNet with other blocks, which is not built in: choose "
            "resnet34, or another depth such as resnet56"
        )
    if depth % 6 != 2:
        raise ZskdError(f"there is no resnet{depth}: choose a depth 6n + 2, such as 8, 14, 20, 32, 44, 56")
    check_size(size, 2, f"resnet{depth}")
    widths = tuple(scale(base, width) for base in (16, 32, 64))
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=conv(channels, widths[0], 3, norm=norm), bn1=norm_layer(norm, widths[0]), relu=nn.ReLU()
    )
    layers |= _stages(widths, ((depth - 2) // 6,) * 3, norm, PaddedShortcut)
    layers |= {
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "linear": nn.Linear(widths[-1], classes),
    }
    return _with_weights(nn.Sequential(layers), norm)


def imagenet_resnet(
    channels: int = 3,
    classes: int = 1000,
    size: Size = 224,
    *,
    depth: Literal[18, 34] = 18,
    width: Width = 1.0,
    norm: Norm = "batch",
    stem: Literal["imagenet", "small"] = "imagenet",
) -> nn.Sequential:
    """ResNet for ImageNet (table 1): 11,689,512 parameters for depth 18 and 1,000 classes, 21,797,672 for 34.

    Args:
        channels: of the images.
        classes: number of classes K.
        size: of the images, at least 16 pixels, or 4 with the small stem.
        depth: layers with weights.
        width: factor of all numbers of channels: 64, 128, 256, 512.
        norm: normalisation after each convolution.
        stem: `imagenet`: a 7×7 convolution and pooling, which leave a quarter of each side; `small`: one 3×3
            convolution, as usual for images of 32 pixels.

    Raises:
        ZskdError: the images are too small.
    """
    small = stem == "small"
    check_size(size, 4 if small else 16, f"resnet{depth}")
    widths = tuple(scale(base, width) for base in (64, 128, 256, 512))
    first = conv(channels, widths[0], 3 if small else 7, norm=norm, stride=1 if small else 2)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=first, bn1=norm_layer(norm, widths[0]), relu=nn.ReLU()
    )
    if not small:
        layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)

    def projection(before: int, after: int) -> nn.Module:
        """Return the shortcut of option B."""
        return nn.Sequential(conv(before, after, 1, norm=norm, stride=2), norm_layer(norm, after))

    layers |= _stages(widths, (2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3), norm, projection)
    layers |= {
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(widths[-1], classes),
    }
    return _with_weights(nn.Sequential(layers), norm)


def _stages(
    widths: tuple[int, ...], counts: tuple[int, ...], norm: Norm, shortcut: Callable[[int, int], nn.Module]
) -> dict[str, nn.Module]:
    """Return stages of so many blocks; all but the first begin with stride 2 and a shortcut with layers."""
    stages: dict[str, nn.Module] = {}
    for i, (after, count) in enumerate(zip(widths, counts, strict=True)):
        before = widths[max(0, i - 1)]
        first = BasicBlock(before, after, 2 if i else 1, norm, shortcut(before, after) if i else None)
        others = (BasicBlock(after, after, 1, norm, None) for _ in range(count - 1))
        stages[f"layer{i + 1}"] = nn.Sequential(first, *others)
    return stages


def _with_weights(network: nn.Sequential, norm: Norm) -> nn.Sequential:
    he_weights(network)
    if norm == "none":
        blocks = [one for one in network.modules() if isinstance(one, BasicBlock)]
        start_near_identity((one.conv1, one.conv2) for one in blocks)
    return network
