"""Checks of single settings."""

from __future__ import annotations

import math

from zskd.core.errors import ZskdError

LAST_SEED = 2**63 - 1


def check_range(
    name: str, value: float, low: float, high: float = float("inf"), *, above: bool = False
) -> None:
    """Refuse a number outside [low, high], or (low, high] when `above`, and one that is not finite."""
    if not math.isfinite(value) or not (low < value <= high if above else low <= value <= high):
        bound = f"above {low:g}" if above else f"at least {low:g}"
        top = f" and at most {high:g}" if high != float("inf") else ""
        raise ZskdError(f"--{name} is {value}: it must be {bound}{top}")
