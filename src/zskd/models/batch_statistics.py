"""Batch statistics: mean and variance of what enters each batch-norm layer, beside its running statistics.

Read in the forward pass, without copies. Covered are all layers of `torch.nn` that keep running statistics:
`BatchNorm1d`, `BatchNorm2d`, `BatchNorm3d`, `SyncBatchNorm` and their subclasses, such as `BatchNormAct2d` of
timm. Not covered: `FrozenBatchNorm2d` of torchvision and timm, which is no layer of `torch.nn`, and
batch-norms that are part of a convolution already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier
from zskd.models.hooks import before_runs
from zskd.models.running import running_original


@dataclass(frozen=True, kw_only=True)
class BatchStatistics:
    """Statistics of one call of a batch-norm layer, or of all; differentiable with respect to the images."""

    name: str
    """Dotted name of the layer in the classifier's module."""
    mean: Tensor
    """μ̂, over images and positions (C,)."""
    var: Tensor
    """σ̂², the mean of the squared deviations (C,); not multiplied by n / (n − 1)."""
    running_mean: Tensor
    """μ, of the layer (C,)."""
    running_var: Tensor
    """σ², of the layer (C,)."""
    eps: float
    """ε, which the layer adds to a variance."""
    count: int
    """Values of each channel: images times positions."""


def batch_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch-norm layers that keep running statistics, by their dotted names."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None
    }


def running_statistics(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return μ and σ² (C,) of a layer that `batch_norms` returned."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var


def check_batch_norms(network: nn.Module, what: str) -> None:
    """Check that a network has batch-norm layers with running statistics.

    Args:
        network: any.
        what: what reads them, for the message.

    Raises:
        ZskdError: it has none.
    """
    if not batch_norms(network):
        raise no_batch_norm(what)


def no_batch_norm(what: str) -> ZskdError:
    """Return the error that a teacher lacks what `what` reads."""
    return ZskdError(
        f"{what} reads the running statistics of batch-norm layers, and the teacher has none: give a teacher "
        "with batch-norm, or --method zskd"
    )


@contextmanager
def reading_statistics(classifier: Classifier, rows: Tensor | None = None) -> Iterator[list[BatchStatistics]]:
    """Read the statistics of every forward pass inside the block.

    The original network is run instead of the rewritten one, where batch-norm is folded into convolutions.
    All hooks are removed, also after an exception.

    Args:
        classifier: any, in evaluation mode.
        rows: numbers of the images that count, or a mask (N,); None: all.

    Yields:
        A list that grows by one entry for each call of a batch-norm layer, in the order of the calls.
    """
    found: list[BatchStatistics] = []

    images = 0

    def count(_: nn.Module, inputs: Tensor) -> None:
        nonlocal images
        images = len(inputs)

    def read(name: str, layer: _BatchNorm, values: Tensor) -> None:
        if rows is not None and len(values) == images:
            values = values[rows]
        elif rows is not None:  # a layer of tokens may be given those of all images, one after the other
            values = values.view(images, -1, *values.shape[1:])[rows].flatten(0, 1)
        mean, var = moments(values)
        running_mean, running_var = running_statistics(layer)
        found.append(
            BatchStatistics(
                name=name,
                mean=mean,
                var=var,
                running_mean=running_mean,
                running_var=running_var,
                eps=layer.eps,
                count=values.numel() // len(mean),
            )
        )

    def reader(name: str) -> Any:
        return lambda layer, values: read(name, layer, values)

    with ExitStack() as undo:
        undo.enter_context(before_runs(classifier.module, count))
        for name, layer in batch_norms(classifier.module).items():
            undo.enter_context(before_runs(layer, reader(name)))
        undo.enter_context(running_original(classifier))
        yield found


def by_layer(calls: Sequence[BatchStatistics]) -> list[BatchStatistics]:
    """Return the statistics of each layer, in the order of their first calls.

    Args:
        calls: of one forward pass. Those of a layer that is called several times are put together, because
            its running statistics are those of all of them.
    """
    of_layers: dict[str, list[BatchStatistics]] = {}
    for one in calls:
        of_layers.setdefault(one.name, []).append(one)
    return [_together(own) for own in of_layers.values()]


def _together(calls: Sequence[BatchStatistics]) -> BatchStatistics:
    """Return the statistics of all values of some calls of one layer, by the law of total variance."""
    first = calls[0]
    if len(calls) == 1:
        return first
    count = sum(one.count for one in calls)
    mean = torch.stack([one.mean * (one.count / count) for one in calls]).sum(0)
    spread = [(one.var + (one.mean - mean).square()) * (one.count / count) for one in calls]
    return replace(first, mean=mean, var=torch.stack(spread).sum(0), count=count)


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel (C,), in a few passes over the memory.

    Twice as fast for a whole step as `torch.var_mean`, which is not vectorised for channels-last tensors. The
    variance is that of the deviations from the mean, so that a large mean costs no precision.

    Args:
        values: (N, C) or (N, C, …), at least one per channel; of bfloat16, sums are in single precision.
    """
    values = values.float() if values.dtype == torch.bfloat16 else values
    mean, var = _Moments.apply(values)  # type: ignore[no-untyped-call]
    return mean, var


class _Moments(torch.autograd.Function):
    """The gradient of both is a·x + b with one a and b per channel: two passes, nothing kept but x."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor]:
        others = [0, *range(2, values.ndim)]
        mean = values.mean(others, keepdim=True)
        var = (values - mean).square_().mean(others)
        ctx.save_for_backward(values, mean)
        return mean.flatten(), var

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        values, mean = ctx.saved_tensors
        of_mean, of_var = (gradient.view(mean.shape) for gradient in gradients)
        share = mean.numel() / values.numel()
        slope = of_var * (2 * share)
        return torch.addcmul(of_mean * share - slope * mean, values, slope)
