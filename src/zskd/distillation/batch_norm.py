"""Statistics of a student's batch-norm layers, taken on images like those that it will receive.

Ioffe, Szegedy: "Batch Normalization", ICML 2015, algorithm 2, takes them after training; running averages are
the usual shortcut. Wu, Johnson: "Rethinking 'Batch' in BatchNorm", 2021, arXiv:2105.07576, compare both
(section 3), and training that ends with fixed statistics (section 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zskd.core.passes import counting
from zskd.core.ranks import ALONE, Ranks
from zskd.core.types import Images, OfOneBatch
from zskd.models.batch_statistics import batch_norms
from zskd.models.classifier import Classifier
from zskd.models.hooks import before_runs
from zskd.models.modes import in_mode
from zskd.models.running import running_original

BatchNorm = Literal["running", "again", "fixed"]
FIXED_FROM = 0.75
"""Share of the steps after which `fixed` takes the statistics."""


@contextmanager
def by_batch(classifier: Classifier) -> Iterator[list[_BatchNorm]]:
    """Let batch-norm layers normalise by the batch and leave their running statistics as they are.

    The original network runs, not the rewritten one. Afterwards all modes are as they were.

    Yields:
        The batch-norm layers that keep statistics.
    """
    layers = list(batch_norms(classifier.module).values())
    before = [(one.training, one.momentum, one.num_batches_tracked) for one in layers]
    try:
        for one in layers:
            one.training, one.momentum, one.num_batches_tracked = True, 0.0, None
        with running_original(classifier):
            yield layers
    finally:
        for one, (training, momentum, counter) in zip(layers, before, strict=True):
            one.training, one.momentum, one.num_batches_tracked = training, momentum, counter


@torch.no_grad()
def take_statistics(classifier: Classifier, batches: Iterable[OfOneBatch]) -> None:
    """Set mean and variance of all batch-norm layers, in place, to those of all their inputs.

    Each batch is normalised by its own statistics, as in training, so batches should be large; all other
    layers are in evaluation mode. The variance is the one that images are normalised by: the mean
    of squared deviations.

    Args:
        classifier: its modes stay as they are.
        batches: images (N, C, H, W) in [0, 1]; not read if there are no such layers.
    """
    if not batch_norms(classifier.module):
        return
    moments: dict[nn.Module, _Moments] = {}

    def add(layer: nn.Module, inputs: Tensor) -> None:
        moments.setdefault(layer, _Moments()).add(inputs.transpose(0, 1).flatten(1))

    with (
        in_mode(classifier, training=False),
        by_batch(classifier) as layers,
        counting("batch_norm"),
        ExitStack() as hooks,
    ):
        for layer in layers:
            hooks.enter_context(before_runs(layer, add))
        for images in batches:
            classifier(images)
    for layer in layers:
        if (found := moments.get(layer)) is None:  # a layer that is not used
            continue
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(found.mean)
        layer.running_var.copy_(found.spread / found.count)


class _Moments:
    """Mean and sum of squared deviations of channels, by parts (Chan, Golub, LeVeque 1979)."""

    mean: Tensor
    spread: Tensor
    count = 0

    def add(self, values: Tensor) -> None:
        """Add values (C, M)."""
        values, new = values.double(), values.shape[1]
        mean = values.mean(1)
        spread = (values - mean[:, None]).square().sum(1)
        if not self.count:
            self.mean, self.spread, self.count = mean, spread, new
            return
        total = self.count + new
        self.spread = self.spread + spread + (mean - self.mean).square() * (self.count * new / total)
        self.mean = self.mean + (mean - self.mean) * (new / total)
        self.count = total


class Statistics:
    """When the student's batch-norm takes its statistics."""

    def __init__(
        self,
        student: Classifier,
        images: Callable[[], Iterable[Images]],
        how: BatchNorm,
        *,
        steps: int,
        ranks: Ranks = ALONE,
    ) -> None:
        """Do nothing yet.

        Args:
            student: in training.
            images: returns what statistics are taken on, the same at each call, in large batches.
            how: the setting `distill.batch_norm`.
            steps: of the training.
            ranks: of the training; the first takes the statistics for all.
        """
        self._student, self._images, self._how, self._ranks = student, images, how, ranks
        self._from = math.floor(FIXED_FROM * steps)

    def before_step(self, step: int) -> None:
        """Take the statistics and fix them, from a step on; a resumed training fixes them again."""
        if self._how != "fixed" or step < self._from:
            return
        if step == self._from:
            self._take()
        for layer in batch_norms(self._student.module).values():
            layer.eval()

    def at_end(self) -> None:
        """Take the statistics of the trained student."""
        if self._how == "again":
            self._take()

    def _take(self) -> None:
        if self._ranks.first:
            take_statistics(self._student, self._images())
        self._ranks.copy_first(self._student.module)
