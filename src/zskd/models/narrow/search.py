"""Find the share of channels that gives a share of multiply-adds or parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from zskd.config.sizes import ShareKind
from zskd.models.counting import count_multiply_adds
from zskd.models.narrow.checks import EXACT, difference, is_sound
from zskd.models.narrow.cut import Cut, Scope, cut_channels, words
from zskd.models.narrow.groups import Groups
from zskd.models.narrow.plan import CannotCut, Plan, plan_cut, read_logits
from zskd.models.narrow.tracing import Read
from zskd.models.preparation import copied

_STEPS = 10
"""Halvings of the interval in which the share of channels is."""
_LEAST = tuple(2.0**-n for n in (6, 5, 4, 3, 2, 1))
"""Least shares of channels: the first whose copy runs."""
_UNITS: dict[ShareKind, str] = {"narrow": "multiply-adds", "params": "parameters"}


def narrow_network(
    network: nn.Module,
    images: Tensor,
    share: float,
    kind: ShareKind = "narrow",
    *,
    read: Read = read_logits,
) -> Cut:
    """Return a copy with fewer channels that has at most a share of a network's size.

    The same share of the channels of each layer stays. Its shapes depend on the network's shapes alone.

    Args:
        network: left as it is.
        images: some different normalised images (N, C, H, W), N at least 2.
        share: above 0, at most 1: of the multiply-adds (`narrow`), the parameters (`params`) or each layer's
            channels (`width`).
        kind: what the share is of.
        read: reads the class scores.

    Raises:
        CannotCut: nothing can be cut, or not so much.
    """
    if share == 1:
        none = Scope(sums=False, attention="none")
        return cut_channels(network, images[:1], 1.0, scope=none, groups=Groups((), {}, every=False))
    plan = plan_cut(network, images, read)
    ratio = share if kind == "width" else _search(network, images[:1], share, _UNITS[kind], plan)
    made = cut_channels(network, images[:1], ratio, scope=plan.scope, groups=plan.groups)
    twin = plan.twin
    again = cut_channels(twin, images[:1], ratio, scope=plan.scope, groups=plan.groups)
    if not is_sound(made.network, images, read) or not difference(again, twin, images, read) < EXACT:
        raise CannotCut(f"a copy with {share:g} of its size does not compute the same as the network")
    return made


def _search(network: nn.Module, image: Tensor, share: float, unit: str, plan: Plan) -> float:
    """Return the largest share of channels whose copy has at most a share of a size."""
    sketch, count = _counter(network, image, unit)
    most = share * count(sketch)

    def size(ratio: float) -> float:
        try:
            return count(cut_channels(sketch, image, ratio, scope=plan.scope, groups=plan.groups).network)
        except Exception:  # a network may not run with so few channels, and raises any exception then
            return math.inf

    what, high = words(plan.groups, plan.scope), 1.0
    low, least = next(((one, found) for one in _LEAST if (found := size(one)) < math.inf), (high, math.inf))
    if least == math.inf:
        raise CannotCut(f"it does not run where half or fewer of {what} are left")
    if least > most:
        left = least / count(sketch)
        raise CannotCut(f"cutting {what} leaves at least {left:.2f} of its {unit}, not {share:g}")
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if size(middle) <= most:
            low = middle
        else:
            high = middle
    return low


def _counter(network: nn.Module, image: Tensor, unit: str) -> tuple[nn.Module, Callable[[nn.Module], int]]:
    """Return a copy of a network to count in, without memory for its weights where it runs so, and what
    counts."""
    if unit == "parameters":
        return copied(network).to("meta"), lambda one: sum(value.numel() for value in one.parameters())
    for device in ("meta", image.device):
        sketch, probe = copied(network).to(device), image.to(device)
        try:
            count_multiply_adds(sketch, probe)
        except Exception:  # some networks look at values, which are not there
            continue
        return sketch, lambda one, probe=probe: count_multiply_adds(one, probe)
    raise CannotCut("its multiply-adds cannot be counted")
