"""Build a network with the user's own code: `file.py:factory` or `package.module:factory`, with arguments."""

from __future__ import annotations

import inspect

from torch import nn

from zskd.config.training import DEFAULT_SHAPE
from zskd.core.code import code_sha256, format_call
from zskd.core.errors import ZskdError, one_line
from zskd.core.extras import import_network
from zskd.core.trust import remember
from zskd.models.factory import Factory
from zskd.models.libraries.arguments import construct
from zskd.teacher.named.facts import Fact, Facts, Found, Given, assumed
from zskd.teacher.named.source import Source


def find(source: Source, given: Given) -> Found:
    """Import and call the user's factory. The user has typed its name, so its code may run.

    Raises:
        ZskdError: it cannot be imported, does not take the arguments, fails, or returns no network.
    """
    factory = import_network(source.name)
    _check_arguments(source, factory)
    module = construct(source.name, factory, source.arguments)
    name = format_call(source.name, source.arguments)
    remember(name)
    architecture = Factory(factory=name, code_sha256=code_sha256(source.name))
    return Found(module, architecture, Facts(shape=_grey(module)))


def _grey(module: nn.Module) -> Fact[tuple[int, int, int]] | None:
    """Return the shape that is assumed for a network of one grey channel; others have too many sizes."""
    first = next((one for one in module.modules() if isinstance(one, nn.Conv2d)), None)
    return assumed(DEFAULT_SHAPE) if first is None or first.in_channels == 1 else None


def _check_arguments(source: Source, factory: object) -> None:
    if not callable(factory):
        raise ZskdError(f"{source.name} is no function or class: name the one that builds the network")
    try:
        signature = inspect.signature(factory)
    except ValueError:  # a callable that was not written in Python tells nothing
        return
    try:
        signature.bind(**source.arguments)
    except TypeError as error:
        raise ZskdError(f"{source.name}{signature} cannot be called so: {one_line(error)}") from error
