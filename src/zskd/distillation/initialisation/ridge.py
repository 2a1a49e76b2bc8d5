"""Layer-wise least squares: weights whose outputs are nearest to those of the teacher's layer.

He, Zhang, Sun: "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, arXiv:1707.06168.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Generator, Tensor, nn

from zskd.core.memory import at_once
from zskd.distillation.initialisation.rows import POSITIONS, all_patches, draw_positions, patches_at

_RIDGE = 1e-3
"""Weight of the squared change of the weights, in units of the mean square of the layer's inputs."""
_IMAGES_AT_ONCE = 100
"""Images in one forward pass, fewer of large ones."""
WeightedLayer = nn.Conv2d | nn.Linear


def normal_equations(
    layer: WeightedLayer, parts: Iterable[tuple[Tensor, Tensor]], rng: Generator
) -> tuple[Tensor, Tensor]:
    """Return the normal equations XᵀX Δ = XᵀR of the change Δ of a layer's weights.

    Args:
        layer: with I inputs for each of its O outputs, a bias counted as one more input.
        parts: inputs of the layer, and the outputs that it should have, part by part.
        rng: for the positions that a convolution is fitted on.

    Returns:
        Gram matrix XᵀX of the inputs (I, I), and cross products XᵀR (I, O) of the inputs with the residuals R
        of the outputs; both float64.
    """
    size = _inputs_count(layer)
    gram = layer.weight.new_zeros(size, size, dtype=torch.double)
    cross = layer.weight.new_zeros(size, len(layer.weight), dtype=torch.double)
    for inputs, outputs in parts:
        inputs, residuals = _rows(layer, inputs, outputs - layer(inputs), rng)
        gram += inputs.T @ inputs
        cross += inputs.T @ residuals
    return gram, cross


def fit_layer(
    layer: WeightedLayer, parts: Iterable[tuple[Tensor, Tensor]], rows: int, rng: Generator
) -> None:
    """Set a layer's weights, with as little change as needed, to those whose outputs are nearest to others.

    Args:
        layer: changed in place.
        parts: as for `normal_equations`.
        rows: number of rows that they have in all; where it is below the number I of inputs, the same change
            is found from the (rows, rows) products of the rows.
        rng: as for `normal_equations`.
    """
    if rows < _inputs_count(layer):
        change = _change_from_rows(layer, parts, rng)
    else:
        change = solve_ridge(*normal_equations(layer, parts, rng))
    set_weight_matrix(layer, weight_matrix(layer) + change)


def _change_from_rows(layer: WeightedLayer, parts: Iterable[tuple[Tensor, Tensor]], rng: Generator) -> Tensor:
    """Return Δ (I, O) of `solve_ridge` as Xᵀ(XXᵀ + λI)⁻¹R."""
    sampled = [_rows(layer, inputs, outputs - layer(inputs), rng) for inputs, outputs in parts]
    inputs, residuals = (torch.cat(one) for one in zip(*sampled, strict=True))
    return solve_from_rows(inputs, residuals)


def solve_from_rows(inputs: Tensor, residuals: Tensor) -> Tensor:
    """Return Δ (I, O) of `solve_ridge` as Xᵀ(XXᵀ + λI)⁻¹R, from fewer rows (M, I) and (M, O) than inputs."""
    inputs, residuals = inputs.double(), residuals.double()
    products = inputs @ inputs.T
    # the mean over all inputs, as in `damped`
    ridge = damping(products.diagonal().sum() / inputs.shape[1])
    identity = torch.eye(len(products), dtype=products.dtype, device=products.device)
    change: Tensor = inputs.T @ torch.linalg.solve(products + ridge * identity, residuals)
    return change


def gram_matrix(layer: WeightedLayer, parts: Iterable[Tensor], rng: Generator) -> Tensor:
    """Return the Gram matrix XᵀX (I, I) of `normal_equations` from a layer's inputs, part by part."""
    size = _inputs_count(layer)
    gram = layer.weight.new_zeros(size, size, dtype=torch.double)
    for inputs in parts:
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
    change: Tensor = torch.linalg.solve(damped(gram), cross)
    return change


def damped(gram: Tensor) -> Tensor:
    """Return XᵀX + λI (I, I) of `solve_ridge`."""
    return gram + damping(gram.diagonal().mean()) * torch.eye(len(gram)).to(gram)


def damping(mean: Tensor) -> Tensor:
    """Return λ for the mean of a float64 Gram matrix's diagonal."""
    return _RIDGE * mean + torch.finfo(mean.dtype).tiny


def rows_of_image(layer: WeightedLayer, positions: int) -> int:
    """Return on how many rows of each image a layer with so many output positions is fitted."""
    return min(POSITIONS, positions) if isinstance(layer, nn.Conv2d) else 1


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


def _rows(layer: WeightedLayer, inputs: Tensor, residuals: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
    """Return inputs (M, I) and residuals (M, O) of a layer as rows."""
    if isinstance(layer, nn.Conv2d):
        inputs, positions = _patches(layer, inputs, rng)
        residuals = residuals.flatten(2)[:, :, positions].transpose(1, 2).flatten(0, 1)
    return _with_ones(layer, inputs), residuals


def _with_ones(layer: WeightedLayer, inputs: Tensor) -> Tensor:
    """Return inputs (M, I) with a column of ones where the layer has a bias."""
    return inputs if layer.bias is None else torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)


def _patches(layer: nn.Conv2d, inputs: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
    """Return the input patches (M, I) of a convolution at random positions, and the positions."""
    patches = all_patches(layer, inputs)
    positions = draw_positions(patches.shape[2] * patches.shape[3], rng).to(inputs.device)
    return patches_at(patches, positions), positions
