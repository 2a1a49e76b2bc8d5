"""Statistics of batch-norm layers, taken again after weights were set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from zskd.models.classifier import Classifier

_Norm = nn.modules.batchnorm._BatchNorm


@contextmanager
def by_batch(network: Classifier) -> Iterator[list[_Norm]]:
    """Let the original network run, with batch-norm layers that normalise by the batch and keep their running
    statistics; afterwards all modes are as they were.

    Yields:
        The batch-norm layers that have running statistics.
    """
    norms = [
        one
        for one in network.module.modules()
        if isinstance(one, _Norm) and one.track_running_stats and one.running_mean is not None
    ]
    before = [(one.training, one.momentum, one.num_batches_tracked) for one in norms]
    rewrite = network.rewrite
    try:
        network.rewrite = False
        for one in norms:
            one.training, one.momentum, one.num_batches_tracked = True, 0.0, None
        yield norms
    finally:
        network.rewrite = rewrite
        for one, (training, momentum, counter) in zip(norms, before, strict=True):
            one.training, one.momentum, one.num_batches_tracked = training, momentum, counter


def retake_statistics(network: Classifier, parts: Sequence[Tensor]) -> None:
    """Set the running mean and variance of each batch-norm to those of all its inputs, in one pass.

    Args:
        network: its running statistics are set in place.
        parts: images (N, C, H, W) in [0, 1]; each part is normalised by its own statistics on the way.
    """
    found: dict[nn.Module, _Statistics] = {}

    def add(norm: nn.Module, given: tuple[Any, ...]) -> None:
        found.setdefault(norm, _Statistics()).add(given[0].transpose(0, 1).flatten(1))

    with by_batch(network) as norms, ExitStack() as undo:
        for norm in norms:
            undo.enter_context(norm.register_forward_pre_hook(add))
        for part in parts:
            network(part)
    for one, statistics in found.items():
        assert isinstance(one.running_mean, Tensor)
        assert isinstance(one.running_var, Tensor)
        one.running_mean.copy_(statistics.mean)
        one.running_var.copy_(statistics.spread / max(1, statistics.count - 1))


class _Statistics:
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
