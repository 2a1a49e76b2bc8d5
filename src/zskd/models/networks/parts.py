"""What the built-in networks share: sizes, widths, normalisation, initial weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, TypeVar

import torch
from pydantic import Field
from torch import nn

from zskd.core.errors import ZskdError

Size = int | tuple[int, int]
"""Height and width of the images, in pixels; one number for square images."""
Norm = Literal["none", "batch", "group"]
"""Normalisation after (or before) each convolution."""
Width = Annotated[float, Field(gt=0, le=64)]
"""Factor of all numbers of channels; 1: those of the paper."""

_GROUPS = 8
"""Groups of a group-norm, where the number of channels allows it."""
Network = TypeVar("Network", bound=nn.Module)


def check_size(size: Size, least: int, name: str) -> tuple[int, int]:
    """Return height and width, and check that both are at least `least` pixels.

    A network with stride 2 in n layers needs 2ⁿ⁻¹ pixels: then all of these layers but the last, which may
    get a single pixel, get at least two.

    Raises:
        ZskdError: the images are smaller.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < least:
        raise ZskdError(f"{name} takes images of at least {least}×{least} pixels, not {height}×{width}")
    return height, width


def scale(channels: int, width: float) -> int:
    """Return a number of channels times the width, rounded, at least 1."""
    return max(1, round(channels * width))


def conv(before: int, after: int, kernel: int, *, norm: Norm, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the size of its images but for the stride.

    It has a bias only where no normalisation follows, which has its own.
    """
    return nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, groups=groups, bias=norm == "none")


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Return the normalisation of images with so many channels; `none` gives the identity."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return group_norm(channels) if norm == "group" else nn.Identity()


def group_norm(channels: int) -> nn.GroupNorm:
    """Return group-norm (Wu and He 2018) with eight groups, or the next smaller number that is possible.

    Each group has at least two channels: a single value, normalised, would always be 0.
    """
    fitting = [n for n in range(2, _GROUPS + 1) if channels % n == 0 and channels >= 2 * n]
    return nn.GroupNorm(max(fitting, default=1), channels)


def he_weights(network: Network) -> Network:
    """Draw the weights of all layers but the last one from N(0, 2 / fan-in) (He et al. 2015, equation 10).

    Fan-in, not fan-out: it is right for depthwise convolutions, too. Biases begin at 0; the last layer keeps
    PyTorch's initial weights.
    """
    layers = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    if layers[-1].weight.is_meta:  # has no values; drawing them would only import a good part of torch
        return network
    for layer in layers[:-1]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return network


@torch.no_grad()
def start_near_identity(branches: Iterable[tuple[nn.Conv2d, nn.Conv2d]]) -> None:
    """Let residual blocks without normalisation begin as the identity (Zhang et al. 2019, Fixup, section 3).

    Otherwise each block doubles the variance of its input.

    Args:
        branches: first and last convolution of each block; changed in place.
    """
    pairs = list(branches)
    for first, last in pairs:
        first.weight.mul_(len(pairs) ** -0.5)
        nn.init.zeros_(last.weight)
