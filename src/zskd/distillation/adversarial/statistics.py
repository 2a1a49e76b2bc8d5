"""Mean and variance of a generated batch at the teacher's batch-norm layers, smoothed over batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
        self._numbers: dict[str, int] = {}
        for name, layer in teacher.module.named_modules():
            if _running(layer) is not None:
                self._numbers[name] = len(self._numbers)
        if momentum:
            for name, number in self._numbers.items():
                running = _running(teacher.module.get_submodule(name))
                assert running is not None
                self.register_buffer(f"mean{number}", torch.full_like(running[0], torch.nan))
                self.register_buffer(f"var{number}", torch.full_like(running[1], torch.nan))

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
        var, mean = (
            moments(parts[0]) if len(parts) == 1 else moments(torch.cat([_flat(x) for x in parts], 1).T)
        )
        if self._momentum:
            mean = self._smoothed(f"mean{self._numbers[name]}", mean)
            var = self._smoothed(f"var{self._numbers[name]}", var)
        running = _running(layer)
        assert running is not None
        return LayerStatistics(
            mean=mean, var=var, running_mean=running[0], running_var=running[1], eps=running[2]
        )

    def _smoothed(self, buffer: str, value: Tensor) -> Tensor:
        kept = self.get_buffer(buffer)
        before = torch.where(kept.isnan(), value.detach(), kept)
        smoothed = self._momentum * before + (1 - self._momentum) * value
        kept.copy_(smoothed.detach())
        return smoothed


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return variance (mean of squared deviations) and mean (C,) of the channels of (N, C, …)."""
    var, mean = _Moments.apply(values)  # type: ignore[no-untyped-call]
    return var, mean


class _Moments(torch.autograd.Function):
    """Both moments in one pass: `torch.var_mean` over several dimensions takes ten times as long on a CPU."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        count = values.numel() // values.shape[1]
        mean, var = (values.new_zeros(values.shape[1]) for _ in range(2))
        if count == 1:
            mean = values.transpose(0, 1).flatten()
        else:  # with the momentum 1 the running statistics are those of the batch, the variance unbiased
            F.batch_norm(values, mean, var, training=True, momentum=1.0)
            var = var * ((count - 1) / count)
        ctx.save_for_backward(values, mean)
        return var, mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_var: Tensor, of_mean: Tensor) -> Tensor:
        values, mean = ctx.saved_tensors
        count = values.numel() // values.shape[1]
        shape = (1, -1, *(1 for _ in values.shape[2:]))
        slope = of_var * (2 / count)
        offset = of_mean / count - slope * mean
        return torch.addcmul(offset.view(shape), values, slope.view(shape))


def _flat(values: Tensor) -> Tensor:
    return values.transpose(0, 1).flatten(1)


def _running(layer: nn.Module) -> tuple[Tensor, Tensor, float] | None:
    """Return running mean, running variance and ε of a batch-norm layer that keeps them."""
    if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return None
    if layer.running_mean is None or layer.running_var is None:
        return None
    return layer.running_mean, layer.running_var, layer.eps
