"""Choose what can be cut of a network: the most that is right, found by trying it on random weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from zskd.core.errors import ZskdError
from zskd.core.rng import keep_global_rng
from zskd.models.modes import in_mode
from zskd.models.narrow.checks import EXACT, difference, is_sound
from zskd.models.narrow.cut import Scope, chosen, cut_channels
from zskd.models.narrow.follow import find_groups
from zskd.models.narrow.groups import Group, Groups
from zskd.models.narrow.tracing import Read, returns_several
from zskd.models.output import first_rows
from zskd.models.preparation import copied

_RATIO = 0.6
"""Share of channels that stay in a trial."""
_CALM = 0.03
"""Factor of the weights that make queries, keys and values."""
_TRIALS = 64
"""Trials at most to find the groups that cannot be cut."""


class CannotCut(ZskdError):
    """No narrower copy of a network can be made."""


@dataclass(frozen=True)
class Plan:
    """What of a network is cut, and its groups of channels."""

    scope: Scope
    groups: Groups
    twin: nn.Module
    """The network with other weights, on which a cut is checked."""


def read_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Return the class scores (N, K) of a network for normalised images, as it returns them."""
    return first_rows(network(images), len(images))


def plan_cut(network: nn.Module, images: Tensor, read: Read = read_logits) -> Plan:
    """Return what can be cut of a network; its weights do not matter.

    Tried in turn: all channels; channels inside residual blocks; those of them that can be cut. A trial is
    right if the copy runs in both modes and computes what the network does without the cut channels.

    Args:
        network: left as it is.
        images: some different normalised images (N, C, H, W).
        read: reads its class scores.

    Raises:
        CannotCut: nothing can be cut.
    """
    twin = with_random_weights(network, images)
    why = "none of its channels can be cut alone"
    last: Groups | None = None
    # the channels of features that are returned beside the scores may be cut, if nothing else reads them
    scores = ((False, read),) if returns_several(twin, images[:1]) else ()
    for training, followed in (*scores, (False, None), (True, None)):
        try:
            groups = find_groups(network, images[:1], training=training, read=followed)
        except ZskdError as error:
            why = str(error)
            continue
        last = last or groups
        for scope in _scopes(groups, training):
            tried = _calm(twin, groups) if scope.attention == "widths" else twin
            if _trial(tried, images, scope, groups, read):
                return Plan(scope, groups, tried)
    if last is not None:
        scope = Scope(sums=False, attention="none")
        members = chosen(last, scope)
        left = _failing(twin, images, scope, last, members, read, [_TRIALS])
        if len(left) < len(members):
            return Plan(replace(scope, left=tuple(one.name for one in left)), last, twin)
    raise CannotCut(why)


def _scopes(groups: Groups, training: bool) -> Iterator[Scope]:
    """Yield what to try, the most first."""
    attention = any(one.attention for one in groups.groups)
    attends = any(one.attends for one in groups.groups)
    for sums in (True, False) if any(one.in_sum for one in groups.groups) else (True,):
        for how in ("heads", "widths", "none") if attention or attends else ("none",):
            scope = Scope(sums=sums, attention=how, training=training)
            if chosen(groups, scope):
                yield scope


def _trial(twin: nn.Module, images: Tensor, scope: Scope, groups: Groups, read: Read) -> bool:
    """Return whether a cut is right."""
    try:
        made = cut_channels(twin, images[:1], _RATIO, scope=scope, groups=groups)
    except Exception:  # channels that were followed wrongly raise many kinds of exception
        return False
    return is_sound(made.network, images, read) and difference(made, twin, images, read) < EXACT


def _calm(twin: nn.Module, groups: Groups) -> nn.Module:
    """Return a copy whose attention is nearly the same everywhere.

    The scale of the products of queries and keys depends on the width of a head, which a narrower copy of it
    changes rightly; then this makes no difference.
    """
    calm = copied(twin)
    with torch.no_grad():
        for group in groups.groups:
            for one in group.members if group.attention else ():
                if one.side == "out":
                    calm.get_submodule(one.name).weight.mul_(_CALM)  # type: ignore[operator]
    return calm


def _failing(
    twin: nn.Module,
    images: Tensor,
    scope: Scope,
    groups: Groups,
    members: Sequence[Group],
    read: Read,
    trials: list[int],
) -> list[Group]:
    """Return those of some groups that cannot be cut, by halving; all that remain when no trials are left."""
    if not members:
        return []
    if trials[0] <= 0:
        return list(members)
    trials[0] -= 1
    if _trial(twin, images, scope, replace(groups, groups=tuple(members)), read):
        return []
    if len(members) == 1:
        return list(members)
    middle = len(members) // 2
    halves = members[:middle], members[middle:]
    return [one for half in halves for one in _failing(twin, images, scope, groups, half, read, trials)]


def with_random_weights(network: nn.Module, images: Tensor) -> nn.Module:
    """Return a copy whose weights are random but of a usual size, so that every channel matters.

    A network before its training has blocks that give zero, and a trained one dead channels: on them a wrong
    cut would not be seen.

    Args:
        network: left as it is.
        images: normalised (N, C, H, W); the statistics of batch-norm are those of these.
    """
    twin = copied(network)
    rng = Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in twin.named_parameters():
            if not value.is_floating_point():
                continue
            if "bias" in name.rpartition(".")[2]:
                value.copy_(torch.randn(value.shape, generator=rng) * 0.1)
            elif value.ndim > 1 and value[0].numel() > 1:
                value.copy_(torch.randn(value.shape, generator=rng) * value[0].numel() ** -0.5)
            else:  # scales
                value.copy_(0.75 + 0.5 * torch.rand(value.shape, generator=rng))
        norms = [one for one in twin.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
        before = [one.momentum for one in norms]
        with keep_global_rng(), in_mode(twin, training=True), suppress(Exception):
            for one in norms:
                one.momentum = 1.0
            twin(images)
        for one, momentum in zip(norms, before, strict=True):
            one.momentum = momentum
    return twin
