"""Statistics of a student's batch-norm layers, taken on images like those that it will receive.

Ioffe, Szegedy: "Batch Normalization", ICML 2015, algorithm 2, takes them after training; running averages are
the usual shortcut. Wu, Johnson: "Rethinking 'Batch' in BatchNorm", 2021, arXiv:2105.07576, compare both
(section 3), and training that ends with fixed statistics (section 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zskd.core.types import Images
from zskd.models.classifier import Classifier
from zskd.models.modes import in_mode

BatchNorm = Literal["running", "again", "fixed"]
FIXED_FROM = 0.75
"""Share of the steps after which `fixed` takes the statistics."""


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Return the batch-norm layers of a network that keep statistics for evaluation."""
    return [
        layer
        for layer in network.modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None
    ]


@torch.no_grad()
def take_statistics(classifier: Classifier, batches: Iterable[Images]) -> None:
    """Set mean and variance of all batch-norm layers, in place, to those of the images.

    Each batch is normalised by its own statistics, as in training, so batches should be large; all other
    layers are in evaluation mode. The variance is that of all images together: the mean of the batches'
    variances and the variance of their means.

    Args:
        classifier: its modes stay as they are.
        batches: images (N, C, H, W) in [0, 1]; not read if there are no such layers.
    """
    layers = batch_norms(classifier.module)
    if not layers:
        return
    moments: dict[_BatchNorm, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
    counters = [layer.num_batches_tracked for layer in layers]
    counts = [None if counter is None else counter.clone() for counter in counters]

    def keep(layer: _BatchNorm) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def enter(_layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            values = inputs[0].double()
            variance, mean = torch.var_mean(values, [0, *range(2, values.ndim)], correction=0)
            moments[layer].append((mean, variance))

        return enter

    with in_mode(classifier, training=False), ExitStack() as hooks:
        for layer in layers:
            layer.training = True
            hooks.enter_context(layer.register_forward_pre_hook(keep(layer)))
        for images in batches:
            classifier(images)
    for layer, counter, count in zip(layers, counters, counts, strict=True):
        if counter is not None and count is not None:
            counter.copy_(count)
        if not moments[layer]:  # a layer that is not used
            continue
        means, variances = (torch.stack(one) for one in zip(*moments[layer], strict=True))
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(means.mean(0))
        layer.running_var.copy_(variances.mean(0) + means.var(0, correction=0))


class Statistics:
    """When the student's batch-norm takes its statistics."""

    def __init__(
        self, student: Classifier, images: Callable[[], Iterable[Images]], how: BatchNorm, *, steps: int
    ) -> None:
        """Do nothing yet.

        Args:
            student: in training.
            images: returns what statistics are taken on, the same at each call, in large batches.
            how: the setting `distill.batch_norm`.
            steps: of the training.
        """
        self._student, self._images, self._how = student, images, how
        self._from = math.floor(FIXED_FROM * steps)

    def before_step(self, step: int) -> None:
        """Take the statistics and fix them, from a step on; a resumed training fixes them again."""
        if self._how != "fixed" or step < self._from:
            return
        if step == self._from:
            take_statistics(self._student, self._images())
        for layer in batch_norms(self._student.module):
            layer.eval()

    def at_end(self) -> None:
        """Take the statistics of the trained student."""
        if self._how == "again":
            take_statistics(self._student, self._images())
