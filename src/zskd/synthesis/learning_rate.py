"""The learning rate of a synthesis: the one that takes some impressions nearest to what is minimised.

A step of Adam moves every pixel by about the learning rate. Too small a rate leaves images near where they
began when the steps are over; too large a one keeps them in motion, and leaves noise that the first layers of
a deep and narrow network have never seen. The objective tells both, without data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from zskd.core.device import use_threads
from zskd.core.errors import ZskdError
from zskd.core.passes import counting
from zskd.core.progress import Progress
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.synthesis.inversion.objective import objective_value
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.shard import Shard

_ENOUGH = 0.03
"""Least relative fall of the objective for which the rate is changed: less is chance, and a rate that was set
may have been set for a reason."""


@dataclass(frozen=True)
class Tried:
    """Some impressions that were made with one learning rate."""

    rate: float
    """Adam's learning rate, for pixels in [0, 1]."""
    shard: Shard
    value: float
    """Mean of the objective over them."""


def search_learning_rate(teacher: Classifier, question: SetSpec, most: int, progress: Progress) -> Tried:
    """Return a learning rate that can be neither doubled nor halved to lower the objective of some images.

    It is doubled as long as this lowers the objective after all steps by 3 %; if it never does, it is halved
    so.

    Args:
        teacher: run in evaluation mode; left as it is.
        question: the images, with the learning rate to begin with.
        most: how often it is doubled or halved, at least 1.
        progress: receives images, and a line.

    Raises:
        ZskdError: as for `make_shard`, at the first learning rate.
    """
    first = best = try_rate(teacher, question, question.synthesis.learning_rate, progress)
    values = {first.rate: first.value}
    for factor in (2.0, 0.5):
        for _ in range(most):
            rate = best.rate * factor
            try:
                new = try_rate(teacher, question, rate, progress)
            except ZskdError:  # a loss is not finite
                values[rate] = math.inf
                break
            values[rate] = new.value
            if not new.value < best.value - _ENOUGH * abs(best.value):
                break
            best = new
        if best is not first:
            break
    tried = ", ".join(f"{values[rate]:.3g} at {rate:g}" for rate in sorted(values))
    progress.log(
        f"{question.method}: learning rate {best.rate:g}: the objective of some impressions is {tried}"
    )
    return best


def try_rate(teacher: Classifier, question: SetSpec, rate: float, progress: Progress) -> Tried:
    """Make some images with a learning rate, and return them with the mean of the objective.

    Args:
        teacher: run in evaluation mode; left as it is.
        question: the images: one shard.
        rate: Adam's learning rate, for pixels in [0, 1].
        progress: receives images.

    Raises:
        ZskdError: as for `make_shard`.
    """
    config = replace(question.synthesis, learning_rate=rate)
    spec = replace(question, synthesis=config)
    with progress.task(f"impressions with learning rate {rate:g}", spec.count, "images") as task:
        shard = make_shard(teacher, spec, 0, on_progress=task.advance)
    images, targets = shard.images.to(teacher.device), shard.targets.to(teacher.device)
    # in the batches that were optimised: statistics of several together would hide the errors of each
    rows = torch.split(torch.arange(len(images), device=images.device), config.batch_size)
    with frozen(teacher), use_threads(1), counting("synthesis", teacher=teacher):
        sums = [
            len(one) * objective_value(teacher, spec.objective, images[one], targets[one], config)
            for one in rows
        ]
    return Tried(rate, shard, sum(sums) / len(images))
