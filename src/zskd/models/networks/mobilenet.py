"""MobileNet for small images: depthwise and 1×1 convolutions in turn (Howard et al. 2017).

The first convolution has stride 1 instead of 2. The names of the layers are those of
github.com/kuangliu/pytorch-cifar: `conv1.weight`, `layers.0.conv1.weight`, …, `linear.weight`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import nn

from zskd.models.networks.parts import Norm, Size, Width, check_size, conv, he_weights, norm_layer, scale

_STAGES = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Channels and stride of each block."""


def mobilenet(
    channels: int = 3,
    classes: int = 10,
    size: Size = 32,
    *,
    width: Width = 1.0,
    blocks: Annotated[int, Field(ge=1, le=len(_STAGES))] = len(_STAGES),
    norm: Norm = "batch",
) -> nn.Sequential:
    """MobileNet: 3,217,226 parameters for ten classes and three channels.

    Args:
        channels: of the images.
        classes: number of classes K.
        size: of the images, at least 8 pixels; fewer where there are fewer blocks of stride 2.
        width: factor of all numbers of channels, the paper's width multiplier.
        blocks: of the paper's 13, the first ones that are kept: all of them leave one pixel of 16.
        norm: normalisation after each convolution.
    """
    kept = _STAGES[:blocks]
    halvings = sum(stride == 2 for _, stride in kept)
    check_size(size, 2 ** max(0, halvings - 1), "mobilenet")
    before = scale(32, width)
    stages = []
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=conv(channels, before, 3, norm=norm), bn1=norm_layer(norm, before), relu=nn.ReLU()
    )
    for base, stride in kept:
        after = scale(base, width)
        stages.append(_block(before, after, stride, norm))
        before = after
    layers["layers"] = nn.Sequential(*stages)
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "linear": nn.Linear(before, classes)}
    return he_weights(nn.Sequential(layers))


def _block(before: int, after: int, stride: int, norm: Norm) -> nn.Sequential:
    """Return a depthwise convolution and a 1×1 convolution, each with normalisation and ReLU."""
    return nn.Sequential(
        OrderedDict(
            conv1=conv(before, before, 3, norm=norm, stride=stride, groups=before),
            bn1=norm_layer(norm, before),
            relu1=nn.ReLU(),
            conv2=conv(before, after, 1, norm=norm),
            bn2=norm_layer(norm, after),
            relu2=nn.ReLU(),
        )
    )
