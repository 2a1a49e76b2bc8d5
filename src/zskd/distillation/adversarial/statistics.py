"""Batch statistics of generated images at the teacher's batch-norm layers, smoothed over batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from zskd.models.batch_statistics import BatchStatistics, batch_norms, by_layer, running_statistics
from zskd.models.classifier import Classifier


class Statistics(nn.Module):
    """Takes the statistics of batches, one after the other, and mixes earlier ones in.

    With the momentum m, the statistics of batch t are s_t = m·s_{t−1} + (1 − m)·ŝ_t, and only ŝ_t, those of
    the batch alone, has a gradient. Before the first batch, s_{t−1} is ŝ_t without its gradient.
    """

    def __init__(self, teacher: Classifier, momentum: float = 0.0) -> None:
        """Begin without batches.

        Args:
            teacher: its batch-norm layers are those that keep running statistics.
            momentum: m, from 0 to below 1; with 0 there is nothing to save.
        """
        super().__init__()
        self._momentum = momentum
        layers = batch_norms(teacher.module)
        self._numbers = {name: number for number, name in enumerate(layers)}
        if momentum:
            for number, layer in enumerate(layers.values()):
                for moment, known in zip(("mean", "var"), running_statistics(layer), strict=True):
                    self.register_buffer(f"{moment}{number}", torch.full_like(known, torch.nan))

    def forward(self, calls: Sequence[BatchStatistics]) -> tuple[BatchStatistics, ...]:
        """Return the statistics of each batch-norm layer, in the order of their first calls.

        Args:
            calls: of one forward pass; several calls of a layer count together.
        """
        return tuple(self._smoothed(of_layer) for of_layer in by_layer(calls))

    def _smoothed(self, found: BatchStatistics) -> BatchStatistics:
        if not self._momentum:
            return found
        number = self._numbers[found.name]
        mean, var = self._mixed(f"mean{number}", found.mean), self._mixed(f"var{number}", found.var)
        return replace(found, mean=mean, var=var)

    def _mixed(self, buffer: str, value: Tensor) -> Tensor:
        kept = self.get_buffer(buffer)
        before = torch.where(kept.isnan(), value.detach(), kept)
        mixed = self._momentum * before + (1 - self._momentum) * value
        kept.copy_(mixed.detach())
        return mixed
