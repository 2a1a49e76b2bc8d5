"""A network of timm (PyTorch Image Models), by its name."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from zskd.config.checks import suggestion
from zskd.core.artefact import Artefact, JsonObject
from zskd.core.errors import ZskdError
from zskd.core.extras import import_extra
from zskd.models.libraries.arguments import check_arguments, construct, plain


class TimmNetwork(Artefact):
    """A network of timm."""

    timm: str
    """Name in timm's registry, without the tag of pretrained weights: "resnet18"."""
    arguments: JsonObject = Field(default_factory=dict)
    """Arguments of `timm.create_model`: {"num_classes": 10}."""

    @property
    def title(self) -> str:
        """Name for messages."""
        return f"timm:{self.timm}"

    def build(self) -> nn.Module:
        """Build the network with random weights. Nothing is read or downloaded.

        Raises:
            ZskdError: timm is not installed, has no such network (the nearest is suggested), or refuses the
                arguments.
        """
        timm = import_extra("timm")
        check_name(self.timm)
        check_arguments(self.title, self.arguments)
        return construct(
            self.title,
            lambda **given: timm.create_model(self.timm, pretrained=False, **given),
            plain(self.arguments),
        )


def check_name(name: str) -> None:
    """Check that timm has a network, without the tag of pretrained weights.

    Raises:
        ZskdError: it has not; the nearest name is suggested.
    """
    timm = import_extra("timm")
    if ":" in name or "/" in name or not timm.is_model(name):
        listed = suggestion(name, timm.list_models(), "timm:")
        near = listed if "did you mean" in listed else ": timm.list_models() lists the names"
        raise ZskdError(f"timm has no network {name!r}{near}")
