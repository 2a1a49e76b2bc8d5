"""Rows that layers are fitted on: their inputs and outputs at some positions of each image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

POSITIONS = 15
"""Positions of each image, drawn at random, that a layer is fitted on."""


def draw_positions(count: int, rng: Generator) -> Tensor:
    """Return the numbers of at most 15 of so many positions, drawn at random."""
    return torch.randperm(count, generator=rng)[:POSITIONS]


def input_rows(layer: nn.Conv2d | nn.Linear, inputs: Tensor, positions: Tensor) -> Tensor:
    """Return what enters a layer at some positions of its outputs (M, G, I), with its bias as one more input.

    Args:
        layer: with G groups, one for a linear layer.
        inputs: (N, C, H, W), or (N, …, C) for a linear layer.
        positions: numbers of its output pixels or tokens (P,).
    """
    if isinstance(layer, nn.Conv2d):
        rows = patches_at(all_patches(layer, inputs), positions)
        rows = rows.view(len(rows), layer.groups, -1)
    else:
        rows = inputs.reshape(len(inputs), -1, inputs.shape[-1])[:, positions].flatten(0, 1)[:, None]
    return rows if layer.bias is None else torch.cat([rows, rows.new_ones(*rows.shape[:2], 1)], 2)


def output_rows(layer: nn.Conv2d | nn.Linear, outputs: Tensor, positions: Tensor) -> Tensor:
    """Return the outputs of a layer at some positions (M, O); arguments as for `input_rows`."""
    if isinstance(layer, nn.Conv2d):
        return outputs.flatten(2)[:, :, positions].transpose(1, 2).flatten(0, 1)
    return outputs.reshape(len(outputs), -1, outputs.shape[-1])[:, positions].flatten(0, 1)


def positions_of(layer: nn.Module, outputs: Tensor) -> int:
    """Return the number of output positions of each image."""
    width = outputs.shape[1] if isinstance(layer, nn.Conv2d) else outputs.shape[-1]
    return outputs[0].numel() // width


def all_patches(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    """Return the patches of a convolution at all positions, as a view (N, C, H, W, kernel)."""
    if layer.padding == "same":
        spans = [step * (size - 1) for size, step in zip(layer.kernel_size, layer.dilation, strict=True)]
        around = [side for span in reversed(spans) for side in (span // 2, span - span // 2)]
    else:
        amounts = (0, 0) if isinstance(layer.padding, str) else layer.padding
        around = [amount for amount in reversed(amounts) for _ in range(2)]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    patches = F.pad(inputs, around, mode=mode)
    for axis in (0, 1):
        span = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        patches = patches.unfold(2 + axis, span, layer.stride[axis])
    return patches[..., :: layer.dilation[0], :: layer.dilation[1]]


def patches_at(patches: Tensor, positions: Tensor) -> Tensor:
    """Return patches (N, C, H, W, kernel) at some positions as rows (N·P, C·kernel)."""
    width = patches.shape[3]
    rows = patches[:, :, positions // width, positions % width]
    return rows.transpose(1, 2).flatten(0, 1).flatten(1)
