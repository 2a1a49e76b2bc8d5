"""Dirichlet targets against closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import digamma, xlogy

from zskd.config.targets import TargetsConfig
from zskd.core.errors import ZskdError
from zskd.synthesis.dirichlet import draw_targets, one_hot
from zskd.synthesis.plan import PlanEntry, plan_entry, row_size
from zskd.synthesis.similarity import concentration

A = np.array([[1.0, 0.6, 0.2], [0.3, 1.0, 0.5], [0.1, 0.7, 1.0]])
N = 4000
PLAIN = TargetsConfig(concentration_floor=0.0, redraws=0)


def draw(beta: float, config: TargetsConfig, anchor: int = 0, n: int = N, a: np.ndarray = A) -> np.ndarray:
    return draw_targets(a, [PlanEntry(i, anchor, beta, True) for i in range(n)], config, seed=1)


def entropy(y: np.ndarray) -> np.ndarray:
    return -xlogy(y, y).sum(axis=1)


def mean_entropy(alpha: np.ndarray) -> float:
    """E[H(y)] for y ~ Dirichlet(α)."""
    total = alpha.sum()
    return float(digamma(total + 1) - (alpha / total * digamma(alpha + 1)).sum())


@pytest.mark.parametrize("beta", [1.0, 0.1, 5.0])
@pytest.mark.parametrize("anchor", [0, 2])
def test_mean_and_entropy_are_those_of_the_dirichlet_distribution(beta: float, anchor: int) -> None:
    y = draw(beta, PLAIN, anchor).astype(np.float64)
    alpha = beta * A[anchor]
    mean, total = alpha / alpha.sum(), alpha.sum()
    error = np.sqrt(mean * (1 - mean) / (total + 1) / N)
    assert (np.abs(y.mean(axis=0) - mean) < 4.5 * error).all()
    h = entropy(y)
    assert abs(h.mean() - mean_entropy(alpha)) < 4.5 * h.std() / np.sqrt(N)


def test_beta_has_an_effect_unless_the_rows_are_rescaled_after_it() -> None:
    """The release's bug, as a setting: both scales give the same targets, number for number."""
    assert entropy(draw(0.1, PLAIN)).mean() < 0.6 * entropy(draw(1.0, PLAIN)).mean()
    rescaled = TargetsConfig(rescale_after_beta=True, concentration_floor=1e-4, redraws=0)
    a = A + 1e-4
    np.testing.assert_allclose(draw(0.1, rescaled, a=a), draw(1.0, rescaled, a=a), atol=1e-6)


@given(
    k=st.integers(2, 20),
    beta=st.sampled_from([0.01, 0.1, 1.0, 10.0]),
    floor=st.sampled_from([0.0, 1e-12, 0.05, 0.5]),
    redraws=st.integers(0, 3),
    seed=st.integers(0, 2**40),
)
def test_targets_lie_on_the_simplex(k: int, beta: float, floor: float, redraws: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    similarity = np.clip(rng.uniform(-1, 1, (k, k)), -1, 1)
    np.fill_diagonal(similarity, 1)
    a = concentration(similarity, floor=floor)
    config = TargetsConfig(redraws=redraws, concentration_floor=floor)
    entries = [PlanEntry(i, i % k, beta, True) for i in range(2 * k)]
    y = draw_targets(a, entries, config, seed=seed)
    assert y.dtype == np.float32
    assert (y >= 0).all()
    np.testing.assert_allclose(y.sum(axis=1), 1, atol=1e-5)
    if redraws:
        assert [int(k) for k in y.argmax(axis=1)] == [entry.anchor for entry in entries]


def test_redraws_leave_the_class_on_top_and_without_them_it_often_is_not() -> None:
    assert (draw(1.0, TargetsConfig(redraws=20)).argmax(axis=1) == 0).all()
    assert 0.2 < (draw(1.0, PLAIN).argmax(axis=1) != 0).mean() < 0.6


def test_two_classes_are_one_hot_without_a_floor_and_mixed_with_one() -> None:
    similarity = np.array([[1.0, -0.3], [-0.3, 1.0]])
    bare = draw(1.0, PLAIN, a=concentration(similarity))
    np.testing.assert_array_equal(bare, one_hot([0] * N, 2))
    mixed = draw(1.0, PLAIN, a=concentration(similarity, floor=0.25))
    assert mixed[:, 1].mean() == pytest.approx(0.25 / 1.5, abs=0.02)
    assert ((mixed > 0.05) & (mixed < 0.95)).any(axis=1).mean() > 0.3


def test_a_target_depends_on_its_index_alone() -> None:
    entries = [PlanEntry(i, i % 3, 1.0, True) for i in range(10)]
    whole = draw_targets(A, entries, PLAIN, seed=5)
    alone = draw_targets(A, entries[7:8], PLAIN, seed=5)
    np.testing.assert_array_equal(whole[7:8], alone)
    other_seed = draw_targets(A, entries, PLAIN, seed=6)
    assert not np.allclose(whole, other_seed)


def plan(count: int, config: TargetsConfig, share: float = 0.0, classes: int = 4) -> list[PlanEntry]:
    return [
        plan_entry(i, count=count, classes=classes, config=config, noise_share=share) for i in range(count)
    ]


def test_interleaved_plans_are_balanced_in_class_scale_and_noise() -> None:
    entries = plan(800, PLAIN, share=0.25)
    optimised = [p for p in entries if p.optimised]
    assert len(optimised) == 600
    for k in range(4):
        assert sum(p.anchor == k for p in optimised) == 150
        assert sum(p.anchor == k and p.beta == 0.1 for p in optimised) == 75


def test_a_smaller_interleaved_set_is_a_prefix_of_a_larger_one() -> None:
    assert plan(300, PLAIN, 0.3)[:100] == plan(100, PLAIN, 0.3)


def test_rows_are_equal_blocks_of_class_and_scale() -> None:
    config = TargetsConfig(order="rows", betas=(0.1, 1.0))
    entries = plan(80, config)
    assert row_size(80, 4, config) == 10
    assert [p.anchor for p in entries[::10]] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert [p.beta for p in entries[::10]] == [0.1] * 4 + [1.0] * 4
    assert all(len({(p.anchor, p.beta) for p in entries[i : i + 10]}) == 1 for i in range(0, 80, 10))


def test_priors_set_the_share_of_each_class_in_every_prefix() -> None:
    config = TargetsConfig(priors=(0.7, 0.2, 0.1, 0.0))
    entries = plan(1000, config)
    for n in (100, 500, 1000):
        counts = np.bincount([p.anchor for p in entries[:n]], minlength=4)
        np.testing.assert_allclose(counts, np.array([0.7, 0.2, 0.1, 0.0]) * n, atol=3)


def test_priors_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(ZskdError, match="2 values for 4 classes"):
        plan(8, TargetsConfig(priors=(0.5, 0.5)))
