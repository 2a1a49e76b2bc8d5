"""The checker that reads annotations at run time: an int is a float to it, as it is to mypy.

While a network is traced, a proxy stands for each tensor. A check takes longer than most functions, and loops
call the same ones thousands of times: in each test a function is checked in its first calls only.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import wraps
from operator import attrgetter
from typing import Any

from beartype import BeartypeConf, FrozenDict, beartype
from torch import Tensor, fx

CALLS = 20
"""Checks of a function in each test; a call is checked before and after it."""
_beartype = beartype(
    conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Tensor: Tensor | fx.Proxy}))
)
_checks: Counter[tuple[str, str]] = Counter()
_quiet: list[Any] = []


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the same annotations that checks its arguments."""
    checked = _beartype(function)
    name = function.__module__, function.__qualname__

    @wraps(function)
    def counted(*arguments: Any, **named: Any) -> Any:
        _checks[name] += 1
        if _checks[name] == CALLS:
            for one in _layers(*name):
                one.__no_type_check__ = True  # jaxtyping reads it at every call
                _quiet.append(one)
        return checked(*arguments, **named)

    return counted


def begin_again() -> None:
    """Check all functions again, as at the beginning of a test."""
    _checks.clear()
    for one in _quiet:
        del one.__no_type_check__
    _quiet.clear()


def _layers(module: str, qualname: str) -> Iterator[Any]:
    """Yield a function of a module and the wrappers around it; none for a function inside a function."""
    try:
        found = attrgetter(qualname)(sys.modules[module])
    except (AttributeError, KeyError):
        return
    found = getattr(found, "fget", None) or getattr(found, "func", None) or getattr(found, "__func__", found)
    while callable(found):
        yield found
        found = getattr(found, "__wrapped__", None)
