"""A training step that several ranks take together: each has a part of the batch, all the same weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from zskd.core.errors import ZskdError
from zskd.core.passes import Passes, Tally, count_elsewhere, sum_passes
from zskd.core.ranks import Ranks


def average(modules: Iterable[nn.Module], ranks: Ranks, share: float) -> None:
    """Replace gradients, and running statistics of batch-norm, by their means over the images of the batch.

    They are replaced in place. The gradients become those of the mean loss of the whole batch, which
    `DistributedDataParallel` would give where all parts are equally large. That one sums while the backward
    pass runs, in an order that it changes after its first step; here a resumed training sums as an
    uninterrupted one does.

    Args:
        modules: in training, after their backward pass.
        ranks: of the training.
        share: this rank's share of the batch.
    """
    if not ranks.several:
        return
    values = []
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:  # perhaps in this rank alone
                    parameter.grad = torch.zeros_like(parameter)
                values.append(parameter.grad)
        for layer in module.modules():
            if isinstance(layer, _BatchNorm) and layer.training and layer.running_mean is not None:
                assert layer.running_var is not None
                values += [layer.running_mean, layer.running_var]
    ranks.average(values, share)


def dropout_of(ranks: Ranks) -> str:
    """Return the purpose of the random numbers of dropout: each rank has masks of its own."""
    return "dropout" if ranks.first else f"dropout of rank {ranks.rank}"


def check_same_steps(done: int, ranks: Ranks) -> None:
    """Check that all ranks resume the same training.

    Raises:
        ZskdError: they do not.
    """
    if len(set(ranks.of_all(done))) > 1:
        raise ZskdError(
            "the processes read different states: --out must be in a folder that all machines share"
        )


def all_passes(tally: Tally, ranks: Ranks) -> Passes:
    """Return what the tallies of all ranks have counted."""
    return sum_passes(ranks.of_all(tally.passes()))


def count_others(tally: Tally, ranks: Ranks) -> None:
    """Count in the first rank, too, what the tallies of the others have counted."""
    others = ranks.of_all(tally.passes())[1:]
    if ranks.first:
        count_elsewhere(sum_passes(others))
