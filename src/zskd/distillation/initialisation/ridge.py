"""Layer-wise least squares: weights whose outputs are nearest to those of the teacher's layer.

He, Zhang, Sun: "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, arXiv:1707.06168.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from zskd.core.memory import at_once

_POSITIONS = 15
"""Positions of each image, drawn at random, that a convolution is fitted on."""
_RIDGE = 1e-3
"""Weight of the squared change of the weights, in units of the mean square of the layer's inputs."""
_IMAGES_AT_ONCE = 100
"""Images in one forward pass, fewer of large ones."""
WeightedLayer = nn.Conv2d | nn.Linear


def normal_equations(
    layer: WeightedLayer,
    preceding: nn.Module,
    target: Callable[[Tensor], Tensor],
    images: Tensor,
    rng: Generator,
) -> tuple[Tensor, Tensor]:
    """Return the normal equations XᵀX Δ = XᵀR of the change Δ of a layer's weights.

    Args:
        layer: with I inputs for each of its O outputs, a bias counted as one more input.
        preceding: maps images to the layer's inputs.
        target: maps images to the outputs that the layer should have.
        images: normalised (N, C, H, W).
        rng: for the positions that a convolution is fitted on.

    Returns:
        Gram matrix XᵀX of the inputs (I, I), and cross products XᵀR (I, O) of the inputs with the residuals R
        of the outputs; both float64.
    """
    size = _inputs_count(layer)
    gram = images.new_zeros(size, size, dtype=torch.double)
    cross = images.new_zeros(size, len(layer.weight), dtype=torch.double)
    for batch in in_parts(images):
        inputs = preceding(batch)
        residuals = target(batch) - layer(inputs)
        if isinstance(layer, nn.Conv2d):
            inputs, positions = _patches(layer, inputs, rng)
            residuals = residuals.flatten(2)[:, :, positions].transpose(1, 2).flatten(0, 1)
        inputs = _with_ones(layer, inputs)
        gram += inputs.T @ inputs
        cross += inputs.T @ residuals
    return gram, cross


def gram_matrix(layer: WeightedLayer, preceding: nn.Module, images: Tensor, rng: Generator) -> Tensor:
    """Return the Gram matrix XᵀX (I, I) of `normal_equations`, without the cost of targets."""
    size = _inputs_count(layer)
    gram = images.new_zeros(size, size, dtype=torch.double)
    for batch in in_parts(images):
        inputs = preceding(batch)
        if isinstance(layer, nn.Conv2d):
            inputs, _ = _patches(layer, inputs, rng)
        inputs = _with_ones(layer, inputs)
        gram += inputs.T @ inputs
    return gram


def in_parts(images: Tensor) -> tuple[Tensor, ...]:
    """Split images (N, C, H, W) into parts that fit through a network at once."""
    return torch.split(images, at_once(_IMAGES_AT_ONCE, images.shape))


def solve_ridge(gram: Tensor, cross: Tensor) -> Tensor:
    """Return Δ = (XᵀX + λI)⁻¹ XᵀR (I, O), with λ = 10⁻³ times the mean of the Gram matrix's diagonal."""
    ridge = _RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny
    change: Tensor = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), cross)
    return change


def weight_matrix(layer: WeightedLayer) -> Tensor:
    """Return weights and bias as a matrix (I, O), one row per input, the bias last, in float64."""
    matrix = layer.weight.flatten(1).T
    return (matrix if layer.bias is None else torch.cat([matrix, layer.bias[None]])).double()


def set_weight_matrix(layer: WeightedLayer, matrix: Tensor) -> None:
    """Write such a matrix (I, O) back into a layer."""
    layer.weight.copy_(matrix[: layer.weight[0].numel()].T.reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(matrix[-1])


def rows_of_channels(channels: list[int], width: int, layer: WeightedLayer) -> Tensor:
    """Return the rows of a layer's weight matrix that belong to some input channels, and the bias's row.

    Args:
        channels: of the layer before.
        width: number of channels that the layer before has.
        layer: whose weight matrix it is.
    """
    size = layer.weight[0].numel()
    rows = torch.arange(size, device=layer.weight.device).view(width, -1)[channels].flatten()
    return rows if layer.bias is None else torch.cat([rows, rows.new_tensor([size])])


def weighted_layer(chain: nn.Sequential, index: int) -> WeightedLayer:
    """Return a layer of a chain that is a convolution or a linear layer."""
    layer = chain[index]
    assert isinstance(layer, WeightedLayer)
    return layer


def _inputs_count(layer: WeightedLayer) -> int:
    return layer.weight[0].numel() + (layer.bias is not None)


def _with_ones(layer: WeightedLayer, inputs: Tensor) -> Tensor:
    """Return inputs (M, I) with a column of ones where the layer has a bias."""
    return inputs if layer.bias is None else torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)


def _patches(layer: nn.Conv2d, inputs: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
    """Return the input patches (M, I) of a convolution at random positions, and the positions: numbers of
    pixels of its outputs."""
    if layer.padding == "same":
        spans = [step * (size - 1) for size, step in zip(layer.kernel_size, layer.dilation, strict=True)]
        around = [side for span in reversed(spans) for side in (span // 2, span - span // 2)]
    else:
        amounts = (0, 0) if isinstance(layer.padding, str) else layer.padding
        around = [amount for amount in reversed(amounts) for _ in range(2)]
    patches = F.pad(inputs, around)
    for axis in (0, 1):
        span = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        patches = patches.unfold(2 + axis, span, layer.stride[axis])
    patches = patches[..., :: layer.dilation[0], :: layer.dilation[1]]  # a view: (N, C, H, W, kernel)
    height, width = patches.shape[2:4]
    positions = torch.randperm(height * width, generator=rng)[:_POSITIONS].to(inputs.device)
    rows = patches[:, :, positions // width, positions % width].transpose(1, 2).flatten(0, 1).flatten(1)
    return rows, positions
