"""A network for classification of torchvision, by its name."""

from __future__ import annotations

import warnings
from typing import Any, Final

from pydantic import Field
from torch import nn

from zskd.config.checks import suggestion
from zskd.core.artefact import Artefact, JsonObject
from zskd.core.errors import ZskdError
from zskd.core.extras import import_extra
from zskd.models.libraries.arguments import check_arguments, construct, plain

SLOW_WEIGHTS: Final = ("googlenet", "inception_v3")
"""Networks whose random weights take seconds to draw, and are drawn twice, unless `init_weights` is False."""


class TorchvisionNetwork(Artefact):
    """A network for classification of torchvision."""

    torchvision: str
    """Name in `torchvision.models`: "resnet18"."""
    arguments: JsonObject = Field(default_factory=dict)
    """Arguments of its constructor: {"num_classes": 10}."""

    @property
    def title(self) -> str:
        """Name for messages."""
        return f"torchvision:{self.torchvision}"

    def build(self) -> nn.Module:
        """Build the network with random weights. Nothing is read or downloaded.

        Raises:
            ZskdError: torchvision is not installed, has no such network (the nearest is suggested), or
                refuses the arguments.
        """
        check_name(self.torchvision)
        check_arguments(self.title, self.arguments)
        return construct(
            self.title,
            lambda **given: make_model(self.torchvision, weights=None, **given),
            plain(self.arguments),
        )


def make_model(name: str, *, weights: Any, **arguments: Any) -> Any:
    """Call the constructor of a network.

    Args:
        name: as in `TorchvisionNetwork`.
        weights: a member of its weights, which are downloaded; None: random ones.
        arguments: of the constructor.
    """
    models = import_extra("torchvision").models
    if name in SLOW_WEIGHTS:
        arguments = {"init_weights": False} | arguments
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return models.get_model(
            name, weights=weights, **({"progress": False} if weights else {}), **arguments
        )


def check_name(name: str) -> None:
    """Check that torchvision has a network for classification.

    Raises:
        ZskdError: it has not; the nearest name is suggested.
    """
    models = import_extra("torchvision").models
    names = models.list_models(module=models)
    if name not in names:
        raise ZskdError(f"torchvision has no network {name!r}{suggestion(name, names, 'torchvision:')}")
