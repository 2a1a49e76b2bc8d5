"""Networks of linear layers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import nn

from zskd.models.networks.parts import Norm, Size, check_size, group_norm, he_weights

Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(max_length=100, strict=False)]


def mlp(
    channels: int = 1,
    classes: int = 10,
    size: Size = 32,
    *,
    widths: Widths = (256, 128),
    norm: Norm = "none",
) -> nn.Sequential:
    """Multi-layer perceptron with ReLU.

    Args:
        channels: of the images.
        classes: number of classes K.
        size: of the images.
        widths: units of each hidden layer; none: a linear classifier.
        norm: normalisation of each hidden layer.
    """
    height, width = check_size(size, 1, "mlp")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    before = channels * height * width
    for i, after in enumerate(widths):
        layers[f"fc{i}"] = nn.Linear(before, after)
        if norm != "none":
            layers[f"norm{i}"] = nn.BatchNorm1d(after) if norm == "batch" else group_norm(after)
        layers[f"fc{i}_relu"] = nn.ReLU()
        before = after
    layers[f"fc{len(widths)}"] = nn.Linear(before, classes)
    return he_weights(nn.Sequential(layers))
