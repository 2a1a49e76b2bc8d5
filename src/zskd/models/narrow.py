"""A narrower copy of a chain of layers."""

from __future__ import annotations

from collections.abc import Sequence

from zskd.models.chain import Layer, not_plain


def narrow(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers with half the filters in every convolution; the linear widths stay.

    This is what ZSKD calls "half" (Nayak et al. 2019, LeNet-5: 6, 16 → 3, 8 filters). A network without
    convolutions gets half the units in every hidden linear layer instead. The last layer keeps its
    classes, the first its channels.
    """
    halve = "Conv2d" if any(name == "Conv2d" for name, _ in layers) else "Linear"
    last = max(i for i, (name, _) in enumerate(layers) if name in ("Conv2d", "Linear"))
    result: list[Layer] = []
    # (before, after): how many channels or features leave the layer in the old and in the new network
    before = after = 0
    for i, (name, old) in enumerate(layers):
        new = dict(old)
        width_in, width_out = {
            "Conv2d": ("in_channels", "out_channels"),
            "Linear": ("in_features", "out_features"),
        }.get(name, ("", ""))
        if width_in:
            if before:
                # behind a flatten, one channel becomes several features: keep the proportion
                new[width_in] = old[width_in] // before * after
            if name == halve and i != last:
                new[width_out] = max(1, old[width_out] // 2)
            if new.get("groups", 1) > 1:
                raise not_plain("it has grouped convolutions")
            before, after = old[width_out], new[width_out]
        elif "num_features" in new:
            new["num_features"] = after
        result.append((name, new))
    return result
