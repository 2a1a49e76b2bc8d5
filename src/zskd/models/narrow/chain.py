"""A narrower copy of a chain of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zskd.models.chain import Layer, not_plain


def narrow(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers with half the filters in every convolution; linear layers keep their widths.

    This is "half" in ZSKD (Nayak et al. 2019, LeNet-5: 6, 16 → 3, 8 filters). In a network without
    convolutions, every hidden linear layer gets half the units instead. The number of input channels and of
    classes does not change.

    Args:
        layers: of a plain sequential network, with at least one convolution or linear layer.

    Raises:
        ZskdError: there are grouped convolutions, or a linear layer whose inputs are not the channels of the
            convolution before it.
    """
    halve = "Conv2d" if any(name == "Conv2d" for name, _ in layers) else "Linear"
    last = max(i for i, (name, _) in enumerate(layers) if name in ("Conv2d", "Linear"))
    result: list[Layer] = []
    # output channels or features of the layer in the old and in the new network
    before = after = 0
    planes = False  # whether the values are a picture of channels (N, C, H, W)
    for i, (name, old) in enumerate(layers):
        new = dict(old)
        width_in, width_out = {
            "Conv2d": ("in_channels", "out_channels"),
            "Linear": ("in_features", "out_features"),
        }.get(name, ("", ""))
        if name == "Conv2d" or _is_whole_flatten(name, old):
            planes = name == "Conv2d"
        if width_in:
            if planes and name == "Linear":
                raise not_plain("a linear layer reads rows of pictures and not their channels")
            if before:
                # after a flatten, one channel becomes several features: keep the proportion
                new[width_in] = old[width_in] // before * after
            if name == halve and i != last:
                new[width_out] = max(1, old[width_out] // 2)
            if new.get("groups", 1) > 1:
                raise not_plain("it has grouped convolutions")
            before, after = old[width_out], new[width_out]
        elif "num_features" in new and before:
            new["num_features"] = old["num_features"] // before * after
        result.append((name, new))
    return result


def _is_whole_flatten(name: str, layer: Mapping[str, Any]) -> bool:
    """Return whether a layer makes one row of each picture, (N, C, H, W) to (N, C · H · W)."""
    return name == "Flatten" and (layer["start_dim"] % 4, layer["end_dim"] % 4) == (1, 3)
