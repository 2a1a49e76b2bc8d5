"""The mixture of all families of procedural pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from zskd.core.types import Images
from zskd.data.drawn import Box, Shape, StartImage, Streams
from zskd.synthesis.pictures.families import fractals, gradients, textures, waves
from zskd.synthesis.pictures.leaves import dead_leaves
from zskd.synthesis.pictures.noise import spectral
from zskd.synthesis.pictures.streams import numbers

_FAMILIES: tuple[tuple[float, StartImage], ...] = (
    (0.4, dead_leaves),
    (0.2, textures),
    (0.2, waves),
    (0.12, fractals),
    (0.08, gradients),
)
"""Share and function of each family."""
_COVERED = 0.4
"""Share of the pictures that a second one covers in part."""


def procedural(streams: Streams, shape: Shape, box: Box) -> Images:
    """Pictures of all families; a part of some is covered by a second picture, with a smooth outline."""
    family, second, covered, level, sharp = numbers(streams, 5)
    images = _of_families(family, streams, shape, box)
    rows = (covered.flatten() < _COVERED).nonzero()[:, 0]
    if len(rows):
        own = [streams[row] for row in rows.tolist()]
        over = _of_families(second[rows], own, shape, box)
        outline = spectral(own, (1, *shape[1:]), slope=2.0) + 1.6 * level[rows] - 0.8
        mask = (outline * (2 + 14 * sharp[rows]) + 0.5).clamp(0, 1)
        images[rows] = torch.lerp(images[rows], over, mask)
    return images


def _of_families(chosen: Tensor, streams: Streams, shape: Shape, box: Box) -> Images:
    """Return one picture per stream, of the family that a number of U(0, 1) chooses."""
    edges = torch.tensor([share for share, _ in _FAMILIES]).cumsum(0)[:-1]
    kinds = torch.bucketize(chosen.flatten().contiguous(), edges, right=True)
    images = torch.empty(len(streams), *shape)
    for kind, (_, draw) in enumerate(_FAMILIES):
        rows = (kinds == kind).nonzero()[:, 0]
        if len(rows):
            images[rows] = draw([streams[row] for row in rows.tolist()], shape, box)
    return images
