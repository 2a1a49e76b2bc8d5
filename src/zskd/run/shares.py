"""How a budget of time or of passes is shared between the sets and the students."""

from __future__ import annotations

import math

from zskd.synthesis.spec import SetSpec

FOR_SETS = 0.25
"""Largest share of a budget for making the sets; it limits the number of images."""
FEWEST_IMAGES, FEWEST_STEPS = 300, 100
"""Smallest transfer set and shortest training."""


def counts_to_choose(spec: SetSpec, classes: int, fewest: int) -> list[int]:
    """Return the numbers of images that a smaller set may have, rising: whole shards, unless below one.

    Args:
        spec: of the largest set.
        classes: number K of the teacher's classes.
        fewest: smallest number.
    """
    if spec.targets.order == "rows":
        unit = classes * len(spec.targets.betas)
        sizes = {*range(unit, spec.count, unit)}
    else:
        unit = spec.synthesis.shard_size
        sizes = {*range(100, min(unit, spec.count), 100), *range(unit, spec.count, unit)}
    return sorted({size for size in sizes if size > fewest} | {fewest, spec.count})


def least_count(spec: SetSpec, classes: int) -> int:
    """Return the number of images in the smallest set: about 300, or all."""
    unit = classes * len(spec.targets.betas) if spec.targets.order == "rows" else 1
    return min(spec.count, math.ceil(FEWEST_IMAGES / unit) * unit)
