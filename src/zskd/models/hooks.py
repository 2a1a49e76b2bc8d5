"""Hooks that read what enters a layer, whether the network gives it by place or by name: `layer(input=x)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Before = Callable[[nn.Module, Any], Tensor | None]
"""Receives a layer and its first input, and returns another one for it, or None."""
After = Callable[[nn.Module, Any, Any], None]
"""Receives a layer, its first input and what it returned."""


def before_runs(layer: nn.Module, watch: Before) -> RemovableHandle:
    """Call a function before each run of a layer."""

    def hook(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        changed = watch(layer, _first(given, named))
        if changed is None:
            return None
        return ((changed, *given[1:]), named) if given else (given, named | {next(iter(named)): changed})

    return layer.register_forward_pre_hook(hook, with_kwargs=True)


def after_runs(layer: nn.Module, watch: After) -> RemovableHandle:
    """Call a function after each run of a layer."""

    def hook(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any], answer: Any) -> None:
        watch(layer, _first(given, named), answer)

    return layer.register_forward_hook(hook, with_kwargs=True)


def _first(given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Return the first argument of a call; layers of libraries call it `input`, `x`, `query` or otherwise."""
    return given[0] if given else next(iter(named.values()))
