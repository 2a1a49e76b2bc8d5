"""Mean and variance of a generated batch at the teacher's batch-norm layers, smoothed over batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zskd.models.batch_statistics import batch_norms, moments, running_statistics
from zskd.models.classifier import Classifier
from zskd.models.observation import LayerValue


@dataclass(frozen=True, kw_only=True)
class LayerStatistics:
    """Statistics of what one batch-norm layer receives, of this batch and of the teacher's training."""

    mean: Tensor
    """Mean of each channel (C,), part of the graph."""
    var: Tensor
    """Variance of each channel (C,), the mean of squared deviations; part of the graph."""
    running_mean: Tensor
    """The layer's own (C,)."""
    running_var: Tensor
    """The layer's own (C,)."""
    eps: float
    """What the layer adds to a variance."""


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

    def forward(self, layers: Sequence[LayerValue]) -> tuple[LayerStatistics, ...]:
        """Return the statistics of each batch-norm layer, in the order of their first calls.

        Args:
            layers: inputs of the layers, of one forward pass; several calls of a layer count together.
        """
        inputs: dict[str, list[LayerValue]] = {}
        for one in layers:
            if one.name in self._numbers:
                inputs.setdefault(one.name, []).append(one)
        return tuple(self._of_layer(name, values) for name, values in inputs.items())

    def _of_layer(self, name: str, values: Sequence[LayerValue]) -> LayerStatistics:
        layer, parts = values[0].layer, [one.value for one in values]
        assert isinstance(layer, _BatchNorm)
        mean, var = moments(
            parts[0] if len(parts) == 1 else torch.cat([_flat(value) for value in parts], dim=1).T
        )
        if self._momentum:
            mean = self._smoothed(f"mean{self._numbers[name]}", mean)
            var = self._smoothed(f"var{self._numbers[name]}", var)
        of_layer = running_statistics(layer)
        return LayerStatistics(
            mean=mean, var=var, running_mean=of_layer[0], running_var=of_layer[1], eps=layer.eps
        )

    def _smoothed(self, buffer: str, value: Tensor) -> Tensor:
        kept = self.get_buffer(buffer)
        before = torch.where(kept.isnan(), value.detach(), kept)
        smoothed = self._momentum * before + (1 - self._momentum) * value
        kept.copy_(smoothed.detach())
        return smoothed


def _flat(values: Tensor) -> Tensor:
    return values.transpose(0, 1).flatten(1)
