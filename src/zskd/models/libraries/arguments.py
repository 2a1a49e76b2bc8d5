"""Arguments of the constructors of other libraries: plain values, none of which loads anything."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn

from zskd.core.errors import ZskdError, one_line
from zskd.models.preparation import runnable

_WEIGHTS = frozenset(
    {
        "cache_dir",
        "checkpoint_path",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "weights",
        "weights_backbone",
    }
)
"""Arguments by which timm or torchvision would read or download weights."""


def check_arguments(title: str, arguments: Collection[str]) -> None:
    """Check that no argument makes a library read or download weights.

    Raises:
        ZskdError: one does.
    """
    if wrong := sorted(_WEIGHTS.intersection(arguments)):
        raise ZskdError(f"{title}: {wrong[0]} is no argument of a network: name a file of weights after @")


def construct(title: str, build: Callable[..., Any], arguments: Mapping[str, Any]) -> nn.Module:
    """Call a constructor with arguments as they are.

    Raises:
        ZskdError: it refuses the arguments, or does not return a network.
    """
    try:
        network = build(**arguments)
    except ZskdError:
        raise
    except Exception as error:  # a library, or the user's own code, may fail in any way
        raise ZskdError(f"cannot build {title}: {one_line(error)[:200]}") from error
    if not isinstance(network, nn.Module):
        raise ZskdError(f"{title} returned a {type(network).__name__}, not a torch.nn.Module")
    return runnable(network)


def plain(value: Any) -> Any:
    """Return a JSON value as the libraries want it: lists as tuples, as deep as they go."""
    if isinstance(value, list | tuple):
        return tuple(plain(one) for one in value)
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return value
