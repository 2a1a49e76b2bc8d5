"""Which class each image of a transfer set is made for, and whether it is optimised.

All of it is a function of the image's index, so that any shard can be made alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zskd.config.targets import TargetsConfig
from zskd.core.errors import ZskdError

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class PlanEntry:
    """What the plan of a transfer set holds for one image."""

    index: int
    """Its number, which its random streams are keyed by."""
    anchor: int
    """The class k whose concentration the target is drawn with."""
    beta: float
    """The scale of that concentration."""
    optimised: bool
    """False for the share of images that stay noise."""


def row_size(count: int, classes: int, config: TargetsConfig) -> int:
    """Return how many images one block of class and β holds in a set in the order of rows."""
    return -(-count // (classes * len(config.betas)))


def plan_entry(
    index: int, *, count: int, classes: int, config: TargetsConfig, noise_share: float, first_index: int = 0
) -> PlanEntry:
    """Return what the plan holds for one image.

    Interleaved, the classes come in turn, then the scales, and every K-th group is noise according to
    `noise_share`: every prefix of the set is balanced, and a smaller set is a prefix of a larger one.
    With priors, classes follow an additive recurrence with the golden ratio, whose prefixes hold each
    class in proportion to its prior (up to one or two images).

    Args:
        index: its number in the set, at least 0.
        count: size of the set, which only the order of rows looks at.
        classes: K.
        config: scales, order and priors.
        noise_share: share of images that are not optimised.
        first_index: number of the set's first image.
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
