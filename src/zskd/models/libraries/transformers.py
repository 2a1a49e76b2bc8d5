"""A network for image classification of Hugging Face's transformers, from its configuration."""

from __future__ import annotations

import json
from typing import Any, Final

from torch import Tensor, nn

from zskd.config.checks import suggestion
from zskd.core.artefact import Artefact, JsonObject
from zskd.core.errors import ZskdError, one_line
from zskd.core.extras import import_extra
from zskd.models.libraries.arguments import construct

_NOT_FROM_A_FILE: Final = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "custom_pipelines",
        "dtype",
        "experts_implementation",
        "quantization_config",
        "torch_dtype",
        "use_kernels",
        "use_pretrained_backbone",
    }
)
"""Keys of a configuration by which transformers would import code, download, or change number types."""


class TransformersNetwork(Artefact):
    """A network of transformers."""

    transformers: str
    """Type of the model in `config.json`: "vit"."""
    config: JsonObject
    """Its configuration."""
    reversed_channels: bool = False
    """Whether the network takes blue, green, red, as MobileViT does."""

    @property
    def title(self) -> str:
        """Name for messages."""
        return f"transformers:{self.transformers}"

    def build(self) -> nn.Module:
        """Build the network with random weights. No code is imported or downloaded.

        Raises:
            ZskdError: transformers is not installed, has no such network for images, or refuses the
                configuration.
        """
        auto = import_extra("transformers").AutoModelForImageClassification
        config = self.library_config()
        network = construct(self.title, lambda: auto.from_config(config, trust_remote_code=False), {})
        return ReversedChannels(network) if self.reversed_channels else network

    def library_config(self) -> Any:
        """Return the configuration as an object of transformers.

        Raises:
            ZskdError: as `build`.
        """
        check_type(self.transformers)
        values = {key: value for key, value in clean_config(self.config).items() if key != "model_type"}
        try:
            return import_extra("transformers").AutoConfig.for_model(self.transformers, **values)
        except Exception as error:  # the library checks a configuration with many kinds of exception
            raise ZskdError(
                f"transformers refuses the configuration of {self.title} ({one_line(error)[:200]})"
            ) from error


class ReversedChannels(nn.Module):
    """A network that takes blue, green, red, for images (N, C, H, W) in red, green, blue."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        """Return what the network returns for the images with their channels reversed."""
        return self.network(images.flip(1))


def clean_config(values: JsonObject) -> JsonObject:
    """Return a configuration without the keys that import code, download, or change the type of numbers."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: clean(one)
                for key, one in value.items()
                if not key.startswith("_") and key not in _NOT_FROM_A_FILE
            }
        return [clean(one) for one in value] if isinstance(value, list) else value

    return dict(clean(json.loads(json.dumps(values))))


def check_type(name: str) -> None:
    """Check that transformers has a network for image classification of this type.

    Raises:
        ZskdError: it has not; the nearest type is suggested.
    """
    import_extra("transformers")
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    if name == "timm_wrapper":  # its configuration could name a folder on the hub
        raise ZskdError("this folder holds a network of timm: open it as timm:local-dir:FOLDER")
    if name not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        near = suggestion(name, list(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES))
        raise ZskdError(f"transformers has no network for image classification of type {name!r}{near}")
