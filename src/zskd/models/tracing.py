"""The graph of a network's forward pass as a function of its images alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

from torch import fx, nn


def trace(module: nn.Module) -> fx.Graph:
    """Return the graph of a forward pass; optional arguments have their defaults.

    Raises:
        Exception: whatever the user's forward pass raises when it is traced.
    """
    with _left_as_it_is(module):
        return _Tracer().trace(module)


@contextmanager
def _left_as_it_is(module: nn.Module) -> Iterator[None]:
    """Put back what a forward pass keeps in its modules: while it is traced, these are no tensors."""
    places = [one for layer in module.modules() for one in (vars(layer), *vars(layer).values())]
    held = [(one, copy(one)) for one in places if isinstance(one, dict | list)]
    try:
        yield
    finally:
        for one, before in held:
            one.clear()
            if isinstance(one, dict):
                one.update(before)
            else:
                one.extend(before)


class _Tracer(fx.Tracer):
    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Trace a forward pass with optional arguments as if it had none: they would be tensors otherwise."""
        _, *own = inspect.signature(root_fn).parameters.values()
        if len(own) == 1 and own[0].kind is own[0].POSITIONAL_OR_KEYWORD:
            return super().create_args_for_root(root_fn, is_module, concrete_args)

        def forward(self: nn.Module, images: Any) -> Any:
            return root_fn(self, images)

        return super().create_args_for_root(forward, is_module, concrete_args)
