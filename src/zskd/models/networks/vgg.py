"""VGG for small images: a plain chain of 3×3 convolutions (Simonyan and Zisserman 2015).

One linear layer replaces the three of the paper, as usual for CIFAR. The names of the layers are those of
github.com/kuangliu/pytorch-cifar: `features.0.weight`, …, `classifier.weight`. Depth 8 is a student in
Tian et al. 2020 (contrastive representation distillation).
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from zskd.models.networks.parts import Norm, Size, Width, check_size, he_weights, norm_layer, scale

_STAGES = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Depth in the paper -> convolutions between two poolings."""


def vgg(
    channels: int = 3,
    classes: int = 10,
    size: Size = 32,
    *,
    depth: Literal[8, 11, 13, 16, 19] = 11,
    width: Width = 1.0,
    norm: Norm = "batch",
) -> nn.Sequential:
    """VGG of a depth: 9,231,114 parameters for depth 11, ten classes and three channels.

    Args:
        channels: of the images.
        classes: number of classes K.
        size: of the images, at least 16 pixels.
        depth: layers with weights in the paper's count.
        width: factor of all numbers of channels: 64, 128, 256, 512, 512.
        norm: normalisation after each convolution.
    """
    sides = check_size(size, 16, f"vgg{depth}")
    features: list[nn.Module] = []
    before = channels
    for count, base in zip(_STAGES[depth], (64, 128, 256, 512, 512), strict=True):
        for _ in range(count):
            after = scale(base, width)
            features.append(nn.Conv2d(before, after, 3, padding=1))
            features += [] if norm == "none" else [norm_layer(norm, after)]
            features.append(nn.ReLU())
            before = after
        # at an odd side, the last row is a window of its own, so that sizes such as 28 or 16 are not used up
        features.append(nn.MaxPool2d(2, ceil_mode=any(side % 2 for side in sides)))
        sides = (-(-sides[0] // 2), -(-sides[1] // 2))
    network = nn.Sequential()
    network.add_module("features", nn.Sequential(*features))
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("classifier", nn.Linear(before, classes))
    return he_weights(network)
