"""LeNet-5 for 32×32 images and its students.

"LeNet-5-half" is not one network in the literature, so report the number of parameters with every result:
ZSKD (Nayak et al. 2019) and this project use 3 and 8 filters (35,820 parameters for ten classes), DAFL
(Chen et al. 2019) and DFAD (Fang et al. 2019) 3, 8 and 60 filters before 42 units (15,738).
"""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from zskd.models.networks.parts import Norm, Size, Width, check_size, norm_layer, scale

_KERNEL = 5


def _pooled_side(side: int) -> int:
    """Side length after two pairs of 5×5 convolution and 2×2 pooling: 5 for 32."""
    for _ in range(2):
        side = (side - _KERNEL + 1) // 2
    return side


def _lenet(
    filters: tuple[int, int], units: tuple[int, ...], channels: int, classes: int, size: Size, norm: Norm
) -> nn.Sequential:
    sides = check_size(size, 16, "lenet5")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    width = channels
    for i, count in enumerate(filters):
        layers[f"conv{i}"] = nn.Conv2d(width, count, _KERNEL)
        if norm != "none":
            layers[f"norm{i}"] = norm_layer(norm, count)
        # ReLU after max pooling gives the same output as before it, from a quarter of the values
        layers[f"pool{i}"] = nn.MaxPool2d(2)
        layers[f"conv{i}_relu"] = nn.ReLU()
        width = count
    layers["flatten"] = nn.Flatten()
    width *= math.prod(map(_pooled_side, sides))
    for i, count in enumerate(units):
        layers[f"fc{i}"] = nn.Linear(width, count)
        layers[f"fc{i}_relu"] = nn.ReLU()
        width = count
    layers[f"fc{len(units)}"] = nn.Linear(width, classes)
    return nn.Sequential(layers)


def lenet5(
    channels: int = 1, classes: int = 10, size: Size = 32, *, width: Width = 1.0, norm: Norm = "none"
) -> nn.Sequential:
    """LeNet-5 with ReLU and max pooling: 61,706 parameters for grey 32×32 images of ten classes.

    Args:
        channels: of the images.
        classes: number of classes K.
        size: of the images, at least 16 pixels.
        width: factor of all filters and units: 6, 16 and 120, 84.
        norm: normalisation after each convolution.
    """
    filters, units = (scale(6, width), scale(16, width)), (scale(120, width), scale(84, width))
    return _lenet(filters, units, channels, classes, size, norm)


def lenet5_half(
    channels: int = 1, classes: int = 10, size: Size = 32, *, norm: Norm = "none"
) -> nn.Sequential:
    """Half of LeNet-5's filters, as in ZSKD: 35,820 parameters."""
    return _lenet((3, 8), (120, 84), channels, classes, size, norm)


def lenet5_small(
    channels: int = 1, classes: int = 10, size: Size = 32, *, norm: Norm = "none"
) -> nn.Sequential:
    """LeNet-5-half of DAFL and DFAD, whose third convolution of 60 filters covers its whole 5×5 input.

    That convolution is the same map as a linear layer; 15,738 parameters.
    """
    return _lenet((3, 8), (60, 42), channels, classes, size, norm)


def lenet5_bn(channels: int = 1, classes: int = 10, size: Size = 32) -> nn.Sequential:
    """LeNet-5 with batch-norm after each convolution, for methods that use batch-norm statistics."""
    return _lenet((6, 16), (120, 84), channels, classes, size, "batch")
