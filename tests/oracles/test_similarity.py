import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zskd.core.errors import ZskdError
from zskd.synthesis.similarity import class_similarity, concentration


def weights(k: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(k, d, generator=torch.Generator().manual_seed(seed))


@given(st.integers(2, 12), st.integers(2, 40), st.integers(0, 1000))
def test_symmetric_with_unit_diagonal_and_inside_the_cosine_range(k: int, d: int, seed: int) -> None:
    c = class_similarity(weights(k, d, seed))
    np.testing.assert_allclose(c, c.T)
    np.testing.assert_array_equal(np.diag(c), 1)
    assert np.abs(c).max() <= 1


def test_unchanged_when_class_vectors_are_rescaled() -> None:
    w = weights(6, 20, 0)
    scale = torch.tensor([0.1, 1, 7, 30, 2, 0.5]).unsqueeze(1)
    np.testing.assert_allclose(class_similarity(w), class_similarity(w * scale), atol=1e-6)


def test_follows_a_permutation_of_the_classes() -> None:
    w, order = weights(6, 20, 1), [3, 0, 5, 1, 2, 4]
    permuted = class_similarity(w[order])
    np.testing.assert_allclose(permuted, class_similarity(w)[np.ix_(order, order)], atol=1e-12)
    expected = concentration(class_similarity(w))[np.ix_(order, order)]
    np.testing.assert_allclose(concentration(permuted), expected, atol=1e-12)


def test_known_angles() -> None:
    w = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-2.0, 0.0]])
    half = 2**-0.5
    expected = [[1, half, -1], [half, 1, -half], [-1, -half, 1]]
    np.testing.assert_allclose(class_similarity(w), expected, atol=1e-7)
    np.testing.assert_allclose(concentration(class_similarity(w))[0], [1, (half + 1) / 2, 0], atol=1e-7)


def test_rows_run_from_zero_to_one_plus_the_floor() -> None:
    a = concentration(class_similarity(weights(5, 9, 2)), floor=0.25)
    np.testing.assert_allclose(a.min(axis=1), 0.25)
    np.testing.assert_allclose(a.max(axis=1), 1.25)
    np.testing.assert_allclose(np.diag(a), 1.25)


def test_min_max_of_the_matrix_before_the_rows_changes_nothing() -> None:
    c = class_similarity(weights(7, 11, 3))
    np.testing.assert_allclose(concentration(c, normalise="matrix"), concentration(c), atol=1e-12)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(1, 4), "at least two classes"),
        (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "class 1 in the last layer is zero"),
        (torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), "class 0 in the last layer is zero or not finite"),
    ],
)
def test_unusable_heads_are_refused(weight: torch.Tensor, message: str) -> None:
    with pytest.raises(ZskdError, match=message):
        class_similarity(weight)


def test_identical_class_vectors_are_refused() -> None:
    with pytest.raises(ZskdError, match="no class similarity"):
        concentration(class_similarity(torch.ones(3, 4)))
