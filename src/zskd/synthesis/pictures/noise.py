"""Noise: white, smooth, and random fields with a given spectrum."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.core.types import Images
from zskd.data.drawn import Box, Shape, Streams
from zskd.synthesis.pictures.streams import direction, exp, log, numbers, stretched

GRIDS = (2, 4, 8, 16, 32)
"""Side lengths of the random grids that smooth noise is a sum of."""
_CONTRAST = (0.1, 1.0)
"""Least and largest standard deviation of smooth noise before it is clamped to the box."""
_LEAST = 1e-6
"""Least deviation that a field is divided by."""


def gaussian(streams: Streams, shape: Shape, box: Box) -> Images:
    """White noise of N(0, 1), whatever the box."""
    return torch.from_numpy(np.stack([s.standard_normal(shape, dtype=np.float32) for s in streams]))


def uniform(streams: Streams, shape: Shape, box: Box) -> Images:
    """White noise of U(0, 1), stretched to the box."""
    return stretched(torch.from_numpy(np.stack([s.random(shape, dtype=np.float32) for s in streams])), box)


def smooth(streams: Streams, shape: Shape, box: Box) -> Images:
    """Random grids of several sizes, enlarged and added with random weights, brightness and contrast.

    The numbers are drawn per image, the arithmetic is done for all at once.
    """
    noise, deviation = field_of_grids(streams, shape, GRIDS, power=2)
    contrast, brightness = numbers(streams, 2)
    contrast = _CONTRAST[0] + (_CONTRAST[1] - _CONTRAST[0]) * contrast
    return stretched((brightness + contrast * noise / deviation).clamp_(0, 1), box)


def field_of_grids(
    streams: Streams, shape: Shape, grids: tuple[int, ...], *, power: int
) -> tuple[Images, Tensor]:
    """Return random grids of several sizes, enlarged and added with weights U(0, 1)^power.

    Returns:
        Fields of mean 0 (N, C, H, W), and the standard deviation of each (N, 1, 1, 1).
    """
    channels, height, width = shape
    drawn = [
        np.stack([s.standard_normal((channels, g, g), dtype=np.float32) for s in streams]) for g in grids
    ]
    noise = torch.zeros(len(streams), *shape)
    for grid, weight in zip(drawn, numbers(streams, len(grids)), strict=True):
        enlarged = F.interpolate(
            torch.from_numpy(grid), size=(height, width), mode="bilinear", align_corners=False
        )
        noise += weight**power * enlarged
    single = shape == (1, 1, 1)  # whose unbiased deviation is 0/0
    mean = noise.mean((1, 2, 3), keepdim=True)
    deviation = noise.std((1, 2, 3), keepdim=True, correction=0 if single else 1)
    return noise - mean, deviation.clamp_min(_LEAST)


def spectral(
    streams: Streams,
    shape: Shape,
    *,
    slope: Tensor | float,
    angle: Tensor | float = 0.0,
    stretch: Tensor | float = 1.0,
    peak: Tensor | float = 1.0,
    width: Tensor | float = torch.inf,
) -> Images:
    """Return random fields whose amplitude at frequency f is f^−a·exp(−(log f − log p)²/(2b²)).

    f is in cycles per image, along the image's own axes: turned by the angle, one of them stretched. Natural
    pictures have a ≈ 1 (Field 1987). With a finite b, the frequencies near p alone remain (log-Gabor).
    Pixels are sums over many frequencies, so that they are nearly Gaussian whatever the numbers drawn for
    each: these are bytes, which cost a tenth of Gaussian ones.

    Args:
        streams: of N images.
        shape: C, H, W.
        slope: a, for each image (N, 1, 1, 1) or for all; so are the next.
        angle: of the axes in radians.
        stretch: how many times as fast the field changes along the second axis.
        peak: p in cycles per image.
        width: b in natural-log units of frequency.

    Returns:
        Fields of mean 0 and deviation 1 (N, C, H, W); 0 where an image has a single pixel.
    """
    channels, height, columns = shape
    half = columns // 2 + 1
    bins = (channels, height, half, 2)
    count = math.prod(bins)
    drawn = np.frombuffer(b"".join([stream.bytes(count) for stream in streams]), np.uint8)
    values = torch.from_numpy(drawn.astype(np.float32)).view(-1, *bins).sub_(127.5)
    across = torch.fft.rfftfreq(columns, 1 / columns).view(1, 1, 1, half)
    down = torch.fft.fftfreq(height, 1 / height).view(1, 1, height, 1)
    cos, sin = direction(torch.as_tensor(angle))
    along, beside = across * cos + down * sin, (down * cos - across * sin) * stretch
    log_frequency = log((along.square() + beside.square()).clamp_min(1e-3)) / 2
    centred = log_frequency - log(torch.as_tensor(peak))
    amplitude = exp(-slope * log_frequency - centred.square() / (2 * torch.as_tensor(width).square()))
    amplitude[..., 0, 0] = 0  # the mean
    values *= amplitude[..., None]
    spectra = torch.view_as_complex(values)
    if len(spectra) * channels == 1:  # MKL may round a single transform otherwise than one of several
        spectra = spectra.repeat(2, 1, 1, 1)
    fields: Tensor = torch.fft.irfft2(spectra, s=(height, columns), norm="forward")[: len(values)]
    return fields / fields.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(_LEAST)
