import pytest
import torch
from torch import Tensor

from zskd.config import Distill
from zskd.losses import LOSSES


def logits(seed: int, n: int = 5, k: int = 7) -> Tensor:
    return 3 * torch.randn(n, k, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["kl", "l1", "mse"])
def test_zero_for_a_student_that_answers_like_its_teacher(name: str) -> None:
    z = logits(0)
    assert float(LOSSES[name](z, z, Distill())) == pytest.approx(0, abs=1e-6)
    assert float(LOSSES[name](z, logits(1), Distill())) > 0.1


@pytest.mark.parametrize(("name", "unchanged"), [("kl", True), ("ce", True), ("l1", False), ("mse", False)])
def test_a_constant_added_to_all_logits(name: str, unchanged: bool) -> None:
    s, t = logits(0), logits(1)
    before, after = LOSSES[name](s, t, Distill()), LOSSES[name](s + 2, t, Distill())
    assert (float(before) == pytest.approx(float(after), abs=1e-4)) is unchanged


def test_gradient_of_kl_becomes_that_of_mse_as_tau_grows() -> None:
    """For mean-centred logits, d(τ²·KL)/dz → (z_s − z_t)/K  (Hinton et al. 2015, section 2.1)."""
    s, t = (z - z.mean(dim=1, keepdim=True) for z in (logits(0), logits(1)))
    s.requires_grad_(True)
    loss = LOSSES["kl"](s, t, Distill(tau=100.0)) * len(t)
    (gradient,) = torch.autograd.grad(loss, s)
    torch.testing.assert_close(gradient, (s - t).detach() / s.shape[1], atol=0.02, rtol=0.1)


def test_tau_squared_is_a_factor_of_its_own() -> None:
    s, t = logits(0), logits(1)
    with_factor = LOSSES["kl"](s, t, Distill(tau=20.0))
    without = LOSSES["kl"](s, t, Distill(tau=20.0, tau_squared=False))
    torch.testing.assert_close(with_factor, 400 * without)


def test_kl_has_the_gradient_of_the_cross_entropy_that_the_paper_writes() -> None:
    s, t = logits(0).requires_grad_(True), logits(1)
    (kl,) = torch.autograd.grad(LOSSES["kl"](s, t, Distill(tau=4.0, tau_squared=False)), s)
    cross = -(torch.softmax(t / 4, 1) * torch.log_softmax(s / 4, 1)).sum(1).mean()
    (ce,) = torch.autograd.grad(cross, s)
    torch.testing.assert_close(kl, ce)


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_loss_falls_when_it_is_followed(name: str) -> None:
    student, t = logits(0).requires_grad_(True), logits(1)
    first = LOSSES[name](student, t, Distill())
    optimiser = torch.optim.Adam([student], 0.05)
    for _ in range(60):
        optimiser.zero_grad()
        LOSSES[name](student, t, Distill()).backward()
        optimiser.step()
    assert float(LOSSES[name](student.detach(), t, Distill())) < 0.5 * float(first.detach())
