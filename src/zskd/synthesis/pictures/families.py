"""Families of procedural pictures without objects: gradients, waves, fractals and textures."""

from __future__ import annotations

import math

import torch

from zskd.core.types import Images
from zskd.data.drawn import Box, Shape, Streams
from zskd.synthesis.pictures.colour import lit, painted, palette
from zskd.synthesis.pictures.noise import spectral
from zskd.synthesis.pictures.streams import exp2, numbers, stretched, turned

_MOST_CYCLES = 8.0
"""Most periods of a wave across an image."""
_CROSSED = 0.4
"""Probability that a second wave crosses the first one."""


def gradients(streams: Streams, shape: Shape, box: Box) -> Images:
    """Three colours that pass into each other along a bent line or around a point."""
    angle, x, y, round_, bend, scale, start = numbers(streams, 7)
    along, beside = turned(shape, 2 * x - 1, 2 * y - 1, 2 * math.pi * angle)
    distance = (along.square() + beside.square()).sqrt()
    ramp = torch.where(round_ < 0.4, distance, along + (2 * bend - 1) * beside.square())
    field = (start + (0.3 + scale) * ramp).clamp(0, 1)
    return stretched(lit(streams, palette(streams, field, shape[0]), shape), box)


def waves(streams: Streams, shape: Shape, box: Box) -> Images:
    """Stripes, rings, checks and grids: one or two waves, straight or bent, smooth or with hard edges."""
    first, second = _wave(streams, shape), _wave(streams, shape)
    crossed, product, weight = numbers(streams, 3)
    together = torch.where(product < 0.5, first * second, torch.lerp(first, second, 0.3 + 0.4 * weight))
    field = torch.where(crossed < _CROSSED, together, first)
    return stretched(lit(streams, palette(streams, 0.5 + 0.5 * field, shape[0]), shape), box)


def fractals(streams: Streams, shape: Shape, box: Box) -> Images:
    """Clouds: the amplitude of frequency f is f^−a, a from 0.6 to 2.2, in some more along one direction."""
    slope, angle, stretch = numbers(streams, 3)
    fields = spectral(
        streams,
        shape,
        slope=0.6 + 1.6 * slope,
        angle=math.pi * angle,
        stretch=exp2(3 * stretch.square()),
    )
    return stretched(lit(streams, painted(streams, fields), shape), box)


def textures(streams: Streams, shape: Shape, box: Box) -> Images:
    """Grain, wood, spots and furrows: noise of one band of frequencies and directions, some with edges."""
    angle, stretch, peak, width, edges, folded = numbers(streams, 6)
    fields = spectral(
        streams,
        shape,
        slope=0.0,
        angle=math.pi * angle,
        stretch=exp2(3 * stretch.square()),
        peak=exp2(1 + 2.5 * peak),
        width=0.15 + 0.6 * width,
    )
    fields = torch.where(folded < 0.25, 1.6 * fields.abs() - 1.3, fields)
    hard = (fields * (1 + 6 * edges)).clamp(-1, 1)
    fields = torch.where(edges > 0.5, hard, fields)
    return stretched(lit(streams, painted(streams, fields), shape), box)


def _wave(streams: Streams, shape: Shape) -> Images:
    """Return one wave per image (N, 1, H, W), from −1 to 1."""
    angle, cycles, phase, bent, x, y, round_, hard = numbers(streams, 8)
    along, beside = turned(shape, 2 * x - 1, 2 * y - 1, math.pi * angle)
    distance = (along.square() + beside.square()).sqrt()
    bend = torch.where(bent < 0.5, 0.0, 2 * bent - 1.5) * beside.square()
    ramp = torch.where(round_ < 0.2, distance, along + bend)
    turns = exp2(cycles * math.log2(_MOST_CYCLES)) / 2 * ramp + phase
    half = 2 * (turns - turns.round())  # −1 to 1 in each period
    sine = 4 * half * (1 - half.abs())  # two parabolas, which depart from sin(π·half) by 0.06 at most
    return (sine * exp2(4 * hard.square())).clamp_(-1, 1)
