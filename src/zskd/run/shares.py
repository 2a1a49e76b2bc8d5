"""How a budget of time or of passes is shared between the sets and the students."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from zskd.core.timing import Pace
from zskd.distillation.students import training_seconds
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
        unit = spec.unit_of_rows(classes)
        sizes = {*range(unit, spec.count, unit)}
    else:
        unit = spec.synthesis.shard_size
        whole = {number * unit for number in range(1, spec.shards(classes))}
        sizes = {*range(100, min(unit, spec.count), 100), *whole}
    return sorted({size for size in sizes if size > fewest} | {fewest, spec.count})


def least_count(spec: SetSpec, classes: int) -> int:
    """Return the number of images in the smallest set: about 300, or all."""
    unit = spec.unit_of_rows(classes) if spec.targets.order == "rows" else 1
    return min(spec.count, math.ceil(FEWEST_IMAGES / unit) * unit)


def images_that_fit(
    spec: SetSpec,
    seconds_per_image: float,
    seconds: float,
    *,
    classes: int,
    workers: int,
    fewest: int,
    optimising: float = 0.0,
) -> int:
    """Return the number of images that can be made in a given time: whole shards, unless it is below one.

    Args:
        spec: of the largest set.
        seconds_per_image: of one worker, while all workers are busy.
        seconds: available time.
        classes: number K of the teacher's classes.
        workers: processes that make shards in parallel.
        fewest: smallest number of images to return.
        optimising: seconds more of each image that is optimised.
    """

    def takes(count: int) -> float:
        part = replace(spec, count=count)
        turns = math.ceil(part.shards(classes) / workers)
        images = min(count, turns * part.shard_size(classes))
        # of as many optimised images as the first ones have: a set has no larger share of them
        return seconds_per_image * images + optimising * part.planned(range(images), classes)

    choice = counts_to_choose(spec, classes, fewest)
    return choice[max(0, bisect_right(choice, seconds, key=takes) - 1)]


def steps_that_fit(paces: Sequence[Pace], seconds: float, *, workers: int, own: float = 0.0) -> int:
    """Return the number of steps of each student that fit into a given time.

    Args:
        paces: speed of each student, in their order.
        seconds: available time for all students.
        workers: processes that train students in parallel.
        own: other work of each student, in steps of the same duration.

    Returns:
        The number of steps; −1 if the time is too short for the start alone.
    """
    most = math.ceil(max(0.0, seconds) / min(pace.step for pace in paces)) + 1
    return bisect_right(range(most), seconds, key=lambda n: training_seconds(paces, n + own, workers)) - 1
