"""The plan of a transfer set: which class each image is made for, and whether it is optimised.

It is a function of the image's index, so that each shard can be made alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zskd.config.targets import TargetsConfig
from zskd.core.errors import ZskdError

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class PlanEntry:
    """The plan for one image of a transfer set."""

    index: int
    """Index of the image; its random streams are keyed by it."""
    anchor: int
    """The class k whose concentration the target is drawn with."""
    beta: float
    """The scale β of that concentration."""
    optimised: bool
    """False for an image that stays noise."""


def row_size(count: int, classes: int, config: TargetsConfig) -> int:
    """Return the number of images for each pair of class and β, in a set with the order "rows"."""
    return -(-count // (classes * len(config.betas)))


def plan_entry(
    index: int, *, count: int, classes: int, config: TargetsConfig, noise_share: float, first_index: int = 0
) -> PlanEntry:
    """Return the plan for one image.

    With the order "interleaved", classes alternate from image to image and scales from group to group of K
    images, and a share `noise_share` of the groups is noise: every prefix of the set is balanced, and a
    smaller set is a prefix of a larger one. With priors, classes follow an additive recurrence with the
    golden ratio, whose prefixes hold each class in proportion to its prior (up to one or two images).

    Args:
        index: position in the set, at least 0.
        count: size of the set; only the order "rows" depends on it.
        classes: K.
        config: scales, order and priors.
        noise_share: share of images that are not optimised.
        first_index: index of the set's first image.

    Raises:
        ZskdError: the number of priors is not that of the classes.
    """
    scales, number = config.betas, first_index + index
    if config.order == "rows":
        block = index // row_size(count, classes, config)
        within = index % row_size(count, classes, config)
        noise = int((within + 1) * noise_share) > int(within * noise_share)
        return PlanEntry(number, block % classes, scales[block // classes % len(scales)], not noise)
    turn = index // classes
    noise_before = int(turn * noise_share)
    noise = int((turn + 1) * noise_share) > noise_before
    beta = scales[(turn - noise_before) % len(scales)]
    if config.priors is None:
        return PlanEntry(number, index % classes, beta, not noise)
    if len(config.priors) != classes:
        raise ZskdError(f"--targets.priors has {len(config.priors)} values for {classes} classes")
    edges = np.cumsum(config.priors)
    anchor = int(np.searchsorted(edges[:-1], (index + 0.5) * _GOLDEN % 1, side="right"))
    return PlanEntry(number, anchor, beta, not noise)


def optimised_before(
    index: int, *, count: int, classes: int, config: TargetsConfig, noise_share: float
) -> int:
    """Return how many images before a position are to be optimised; arguments are those of `plan_entry`."""
    if config.order == "rows":
        size = row_size(count, classes, config)
        rows, within = divmod(index, size)
        return rows * (size - int(size * noise_share)) + within - int(within * noise_share)
    turn, within = divmod(index, classes)
    noise_before = int(turn * noise_share)
    noise = int((turn + 1) * noise_share) > noise_before
    return (turn - noise_before) * classes + (0 if noise else within)
