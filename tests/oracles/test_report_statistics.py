"""Statistics against simulation, slow definitions, and numbers printed elsewhere."""

from fractions import Fraction
from itertools import combinations
from math import comb, sqrt
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zskd.evaluation.statistics import compare_paired, holm, mcnemar, prediction_interval, summarise

RUNS = 4000
NAMES = ("first", "second")


def near(count: int, share: float) -> bool:
    """Whether that many of RUNS are what the share lets expect, within four standard errors."""
    return abs(count / RUNS - share) < 4 * sqrt(share * (1 - share) / RUNS)


def runs(n: int) -> np.ndarray:
    """RUNS experiments of n runs around 98 with deviation 0.3."""
    return np.random.default_rng(n).normal(98, 0.3, (RUNS, n))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_interval_of_the_mean_covers_it_in_95_of_100_experiments(n: int) -> None:
    found = [summarise(row) for row in runs(n).tolist()]
    assert near(sum(s.low <= 98 <= s.high for s in found if s.low is not None and s.high is not None), 0.95)


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_next_run_lies_where_it_is_expected(n: int, confidence: float) -> None:
    count = 0
    for *known, following in runs(n + 1).tolist():
        low, high = prediction_interval(known, confidence) or (0, 0)
        count += low <= following <= high
    assert near(count, confidence)


@pytest.mark.parametrize("level", [0.05, 0.5])
def test_equal_arms_are_found_different_as_often_as_the_level(level: float) -> None:
    """Seeds shift both arms alike: an unpaired test would find nearly nothing here."""
    random = np.random.default_rng(1)
    shared = random.normal(95, 2, (RUNS, 3, 1))
    pairs = shared + random.normal(0, 0.2, (RUNS, 3, 2))
    count = covered = 0
    for a, b in pairs.transpose(0, 2, 1).tolist():
        found = compare_paired(dict(enumerate(a)), dict(enumerate(b)), names=NAMES)
        assert found.p is not None
        assert found.low is not None
        assert found.high is not None
        count += found.p < level
        covered += found.low <= 0 <= found.high
    assert near(count, level)
    assert near(covered, 0.95)


def test_students_sleep_data_as_r_prints_them() -> None:
    """Student 1908; `t.test(extra ~ group, paired = TRUE)`: t = -4.0621, df = 9, p-value = 0.002833."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = compare_paired(dict(enumerate(first)), dict(enumerate(second)), names=NAMES)
    assert (found.n, found.mean) == (10, pytest.approx(-1.58))
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert (found.low, found.high) == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)
    assert found.deviation is not None
    assert found.mean / found.deviation * sqrt(10) == pytest.approx(-4.0621, abs=5e-5)


def test_intervals_with_the_quantile_of_a_printed_table() -> None:
    """1 … 5: mean 3, s² = 2.5; t with 4 degrees of freedom stays within 2.776 in 95 %."""
    summary = summarise([1, 2, 3, 4, 5])
    assert summary.high == pytest.approx(3 + 2.776 * sqrt(2.5 / 5), abs=1e-3)
    assert summary.low == pytest.approx(3 - 2.776 * sqrt(2.5 / 5), abs=1e-3)
    half = 2.776 * sqrt(2.5 * 1.2)
    assert prediction_interval([5, 4, 3, 2, 1]) == pytest.approx((3 - half, 3 + half), abs=2e-3)


def closed_test(p_values: list[float]) -> list[float]:
    """Holm's rule as the closed test of Bonferroni's: p must be small in every subfamily that has it."""
    indices = range(len(p_values))
    families = [set(chosen) for size in indices for chosen in combinations(indices, size + 1)]
    bound = [(family, min(1.0, len(family) * min(p_values[i] for i in family))) for family in families]
    return [max(p for family, p in bound if i in family) for i in indices]


@given(st.lists(st.floats(0, 1) | st.sampled_from([0.01, 0.02, 0.04, 1.0]), max_size=6))
def test_holm_is_the_closed_test(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(closed_test(p_values))


@given(st.lists(st.integers(0, 1024), min_size=1, max_size=8), st.integers(0, 1023))
def test_holm_rejects_what_the_steps_down_reject(parts: list[int], level: int) -> None:
    """Holm 1979: from the smallest p on, reject while p ≤ α/(m − k + 1), in exact fractions."""
    alpha, rejected = Fraction(level, 1024), set()
    for k, i in enumerate(sorted(range(len(parts)), key=parts.__getitem__)):
        if Fraction(parts[i], 1024) > alpha / (len(parts) - k):
            break
        rejected.add(i)
    found = holm([p / 1024 for p in parts])
    assert {i for i, p in enumerate(found) if p is not None and p <= level / 1024} == rejected


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == [
        pytest.approx(0.03),
        pytest.approx(0.06),
        None,
        pytest.approx(0.06),
        pytest.approx(0.02),
    ]


@given(
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(0, 5),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_mcnemar_is_a_binomial_sum(
    only_first: int, only_second: int, both: int, neither: int, random: Random
) -> None:
    """Of all 2ᵐ ways to share m images: those in which one network has no more than the rarer count here."""
    kinds = [(1, 0)] * only_first + [(0, 1)] * only_second + [(1, 1)] * both + [(0, 0)] * neither
    random.shuffle(kinds)
    table = np.array(kinds, dtype=bool).reshape(-1, 2)
    found = mcnemar(table[:, 0], table[:, 1])
    n = only_first + only_second
    tail = sum(comb(n, k) for k in range(min(only_first, only_second) + 1))
    assert (found.only_first, found.only_second, found.n) == (only_first, only_second, len(kinds))
    assert found.p == pytest.approx(min(1.0, float(Fraction(2 * tail, 2**n))))


def test_one_against_nine() -> None:
    first, second = np.arange(100) == 0, (np.arange(100) > 0) & (np.arange(100) < 10)
    assert mcnemar(first, second).p == 22 / 1024
