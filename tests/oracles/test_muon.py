"""Muon against its known properties."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zskd.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(120, 200), (200, 120), (10, 84), (3, 25), (1, 7)])
def test_a_matrix_keeps_its_directions_and_nearly_loses_their_lengths(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, lengths, right = torch.linalg.svd(matrix, full_matrices=False)
    made = orthogonal(matrix)
    turned = left.T @ made @ right.T
    torch.testing.assert_close(turned, torch.diag(turned.diagonal()), atol=2e-4, rtol=0)
    assert turned.diagonal().min() > 0.6
    assert turned.diagonal().max() < 1.25
    assert lengths.max() / lengths.min() >= turned.diagonal().max() / turned.diagonal().min() - 1e-4


@pytest.mark.parametrize("size", [0.0, 1e-18, 1e-22, 1e-25, 1e-30, 1e-38, 1e-42])
def test_a_gradient_that_is_nearly_nothing_does_no_harm(size: float) -> None:
    """Its norm is 0 in float32 from 1e-23 on, though its entries are not."""
    made = orthogonal(torch.full((3, 4), size))
    assert made.isfinite().all()
    assert made.abs().max() <= 1.25


def test_a_step_does_not_depend_on_the_size_of_the_gradient() -> None:
    """At any scale of the loss the weights change in the same way."""
    ends = []
    for scale in (1.0, 1000.0):
        weight, bias = nn.Parameter(torch.ones(4, 1, 3, 3)), nn.Parameter(torch.ones(4))
        optimiser = Muon([weight, bias], lr=0.1)
        for seed in range(3):
            numbers = torch.Generator().manual_seed(seed)
            weight.grad = scale * torch.randn(weight.shape, generator=numbers)
            bias.grad = scale * torch.randn(bias.shape, generator=numbers)
            optimiser.step()
        ends.append(torch.cat([weight.detach().flatten(), bias.detach()]))
    torch.testing.assert_close(ends[0], ends[1], atol=1e-5, rtol=0)


def test_vectors_are_moved_as_adam_moves_them() -> None:
    parameter, reference = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    one, other = Muon([parameter], lr=0.01), torch.optim.Adam([reference], lr=0.01)
    for seed in range(20):
        parameter.grad = torch.randn(5, generator=torch.Generator().manual_seed(seed))
        reference.grad = parameter.grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(parameter, reference)


def test_a_badly_scaled_regression_is_solved_sooner_than_by_adam() -> None:
    """Inputs of which few directions are strong, none of them along an axis: that is what it is for."""
    numbers = torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(40, 40, generator=numbers))
    inputs = torch.randn(512, 40, generator=numbers) * torch.logspace(0, -2, 40) @ turn
    expected = torch.randn(40, 20, generator=numbers)
    losses = {}
    for name, make in {"muon": Muon, "adam": torch.optim.Adam}.items():
        best = float("inf")
        for rate in (0.003, 0.01, 0.03, 0.1):
            weight = nn.Parameter(torch.zeros(20, 40))
            optimiser = make([weight], lr=rate)
            for step in range(200):
                for group in optimiser.param_groups:
                    group["lr"] = rate * (1 - step / 200)
                loss = (inputs @ (weight.T - expected)).square().mean()
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            best = min(best, float(loss.detach()))
        losses[name] = best
    assert losses["muon"] < losses["adam"]
