"""Wide residual networks (Zagoruyko and Komodakis 2016).

The names of the layers are those of github.com/xternalz/WideResNet-pytorch, which distillation studies use,
too: `conv1.weight`, `block1.layer.0.bn1.weight`, …, `block2.layer.0.convShortcut.weight`, …, `fc.weight`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

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


class PreactivationBlock(nn.Module):
    """Two 3×3 convolutions, each after normalisation and ReLU, beside a shortcut.

    Where channels or size change, the shortcut is a 1×1 convolution of the first activation.

    Args:
        before: channels of the input.
        after: channels of the output.
        stride: of the first convolution.
        norm: normalisation before each convolution.
    """

    def __init__(self, before: int, after: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.bn1 = norm_layer(norm, before)
        self.conv1 = conv(before, after, 3, norm=norm, stride=stride)
        self.bn2 = norm_layer(norm, after)
        self.conv2 = conv(after, after, 3, norm=norm)
        changes = stride != 1 or before != after
        self.convShortcut = conv(before, after, 1, norm=norm, stride=stride) if changes else None

    def forward(self, images: Tensor) -> Tensor:
        """Return the output (N, C', H', W') for images (N, C, H, W)."""
        active = F.relu(self.bn1(images))
        shortcut: Tensor = images if self.convShortcut is None else self.convShortcut(active)
        branch: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return shortcut + branch


def wrn(
    channels: int = 3,
    classes: int = 10,
    size: Size = 32,
    *,
    depth: Annotated[int, Field(ge=10, le=1000)] = 16,
    width: Width = 1.0,
    norm: Norm = "batch",
) -> nn.Sequential:
    """Wide ResNet: 2,243,546 parameters for depth 40 and width 2, with ten classes and three channels.

    Args:
        channels: of the images.
        classes: number of classes K.
        size: of the images, at least 2 pixels.
        depth: layers with weights, 6n + 4.
        width: factor of the numbers of channels of the blocks: 16, 32, 64. The first convolution has 16.
        norm: normalisation before each convolution.

    Raises:
        ZskdError: there is no network of this depth, or the images are too small.
    """
    if depth % 6 != 4:
        raise ZskdError(f"there is no wrn-{depth}: choose a depth 6n + 4, such as 10, 16, 22, 28, 40")
    check_size(size, 2, f"wrn-{depth}")
    before = 16
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=conv(channels, before, 3, norm=norm))
    for i, base in enumerate((16, 32, 64)):
        after = scale(base, width)
        first = PreactivationBlock(before, after, 2 if i else 1, norm)
        others = (PreactivationBlock(after, after, 1, norm) for _ in range((depth - 4) // 6 - 1))
        layers[f"block{i + 1}"] = nn.Sequential(OrderedDict(layer=nn.Sequential(first, *others)))
        before = after
    layers |= {"bn1": norm_layer(norm, before), "relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1)}
    layers |= {"flatten": nn.Flatten(), "fc": nn.Linear(before, classes)}
    network = he_weights(nn.Sequential(layers))
    if norm == "none":
        blocks = [one for one in network.modules() if isinstance(one, PreactivationBlock)]
        start_near_identity((one.conv1, one.conv2) for one in blocks)
    return network
