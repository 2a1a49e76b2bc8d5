"""What the statistics of a report promise: fields, texts, refusals, and numbers that textbooks print."""

import base64
import dataclasses
import math
import warnings
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from zskd.core.errors import ZskdError
from zskd.evaluation.statistics import (
    Difference,
    McNemarTest,
    Summary,
    compare_paired,
    holm,
    mcnemar,
    prediction_interval,
    sampling_error,
    summarise,
)
from zskd.experiment.record import pack_mask, unpack_mask

NAMES = ("ZSKD", "noise")
VALUES = st.lists(st.floats(0, 100), min_size=2, max_size=8)
MEASURED = st.integers(0, 10_000).map(lambda count: count / 100)
P = st.floats(0, 1)


def mask(*correct: int) -> np.ndarray:
    return np.array(correct, dtype=bool)


def test_a_summary_reads_as_in_the_tables() -> None:
    assert str(summarise([98.30, 98.45, 98.54])) == "98.43 ± 0.12 (n = 3)"
    assert str(summarise([97.72])) == "97.72 (n = 1)"
    assert str(summarise([50, 50])) == "50.00 ± 0.00 (n = 2)"


def test_one_run_has_a_mean_and_nothing_else() -> None:
    assert summarise([97.72]) == Summary(1, 97.72, None, None, None)
    assert prediction_interval([97.72]) is None


@given(VALUES)
def test_the_interval_of_the_mean_is_scipys(values: list[float]) -> None:
    found = summarise(values)
    assert (found.n, found.mean) == (len(values), pytest.approx(np.mean(values)))
    error = stats.sem(values)
    assert found.deviation == pytest.approx(error * math.sqrt(len(values)), abs=1e-9)
    if error > 1e-6:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)


def test_equal_runs_give_intervals_of_no_width() -> None:
    assert summarise([12.5, 12.5, 12.5]) == Summary(3, 12.5, 0.0, 12.5, 12.5)
    assert prediction_interval([12.5, 12.5, 12.5]) is None  # equal values tell no spread


@given(VALUES, st.floats(0.05, 0.99), st.floats(-50, 50), st.floats(0.1, 10))
def test_where_the_next_run_lies_follows_shift_and_scale(
    values: list[float], confidence: float, shift: float, scale: float
) -> None:
    interval = prediction_interval(values, confidence)
    assume(interval is not None)
    low, high = interval or (0, 0)
    moved = prediction_interval([scale * value + shift for value in values], confidence)
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), rel=1e-6, abs=1e-6)


@given(VALUES)
def test_the_next_run_is_less_certain_than_the_mean(values: list[float]) -> None:
    summary, interval = summarise(values), prediction_interval(values)
    assume(interval is not None)
    assert interval is not None
    assert summary.low is not None
    assert summary.high is not None
    width = (summary.high - summary.low) * math.sqrt(len(values) + 1)
    assert interval[1] - interval[0] == pytest.approx(width, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("values", [[], [98.0, math.nan], [math.inf]])
def test_no_runs_and_no_numbers_are_refused(values: list[float]) -> None:
    for function in (summarise, prediction_interval):
        with pytest.raises(ZskdError, match="no runs|not a finite number"):
            function(values)


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, math.nan])
def test_a_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(ZskdError, match="between 0 and 1"):
        prediction_interval([1, 2, 3], confidence)


def test_pairs_are_the_seeds_that_both_arms_have() -> None:
    first, second = {2: 97.0, 0: 98.0, 1: 96.0, 7: 0.0}, {0: 95.0, 1: 94.5, 9: 100.0, 2: 95.5}
    found = compare_paired(first, second, names=NAMES)
    assert (found.first, found.second, found.n) == ("ZSKD", "noise", 3)
    assert found.mean == pytest.approx(2.0)  # 3, 1.5, 1.5
    assert found.deviation == pytest.approx(math.sqrt(0.75))
    assert found.p == pytest.approx(float(stats.ttest_1samp([3, 1.5, 1.5], 0).pvalue))


@given(st.dictionaries(st.integers(0, 9), st.tuples(MEASURED, MEASURED), min_size=1))
def test_the_other_way_round_only_the_sign_changes(pairs: dict[int, tuple[float, float]]) -> None:
    a, b = ({seed: pair[i] for seed, pair in pairs.items()} for i in (0, 1))
    one, other = compare_paired(a, b, names=NAMES), compare_paired(b, a, names=NAMES[::-1])
    assert (other.mean, other.deviation) == (pytest.approx(-one.mean), pytest.approx(one.deviation))
    assert other.p == pytest.approx(one.p)
    if one.p is None:
        assert one.low is one.high is other.low is other.high is None
    else:
        assert one.low is not None
        assert one.high is not None
        assert (other.low, other.high) == pytest.approx((-one.high, -one.low), rel=1e-9, abs=1e-9)
        assert (one.p < 0.05) == (one.low > 0 or one.high < 0) or one.p == pytest.approx(0.05, abs=1e-6)


def test_one_pair_is_a_difference_without_a_test() -> None:
    found = compare_paired({0: 98.0, 1: 97.0}, {1: 95.0, 2: 94.0}, names=NAMES)
    assert found == Difference("ZSKD", "noise", 1, 2.0, None, None, None, None)


@pytest.mark.parametrize(
    ("first", "gap"), [([98.1, 9.7, 0.53], 0), ([98.4, 10.0, 0.83], 0.3), ([97.99, 9.59, 0.42], -0.11)]
)
def test_differences_without_spread_have_no_test(first: list[float], gap: float) -> None:
    """In floats 98.4 − 98.1 and 10.0 − 9.7 are two numbers; t would be some 10¹³, and p almost 0."""
    second = [98.1, 9.7, 0.53]
    assert gap == 0 or len({a - b for a, b in zip(first, second, strict=True)}) > 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare_paired(dict(enumerate(first)), dict(enumerate(second)), names=NAMES)
    assert found.mean == pytest.approx(gap)
    assert (found.n, found.deviation, found.low, found.high, found.p) == (3, 0, None, None, None)


def test_a_spread_too_small_to_square_has_no_test() -> None:
    assert compare_paired({0: 1e-200, 1: 0}, {0: 0, 1: 0}, names=NAMES).p is None


def test_the_smallest_real_spread_has_a_test() -> None:
    """One image of 60,000 for one seed more than for the others."""
    step = 100 / 60_000
    found = compare_paired({0: 98.0, 1: 97.0, 2: 96.0 + step}, {0: 98.0, 1: 97.0, 2: 96.0}, names=NAMES)
    assert found.deviation == pytest.approx(step / math.sqrt(3))
    assert found.p == pytest.approx(0.42265, abs=1e-5)  # t = 1 with 2 degrees of freedom: 1 − 1/√3


def test_arms_without_a_common_seed_are_named() -> None:
    with pytest.raises(ZskdError, match="ZSKD and noise have no seed in common"):
        compare_paired({0: 98.0}, {1: 97.0}, names=NAMES)
    with pytest.raises(ZskdError, match="not a finite number"):
        compare_paired({0: 98.0, 1: math.nan}, {0: 98.0, 1: 97.0}, names=NAMES)


@given(P)
def test_one_test_needs_no_adjustment(p: float) -> None:
    assert holm([p]) == [p]
    assert holm([None, p, None]) == [None, p, None]


@given(st.lists(st.none() | P, max_size=8), st.randoms(use_true_random=False))
def test_adjusting_keeps_order_places_and_gaps(p_values: list[float | None], random: Random) -> None:
    found = holm(p_values)
    assert [p is None for p in found] == [p is None for p in p_values]
    pairs = sorted((p, q) for p, q in zip(p_values, found, strict=True) if p is not None and q is not None)
    assert all(p <= q <= 1 for p, q in pairs)
    assert [q for _, q in pairs] == sorted(q for _, q in pairs)
    assert [q for q in found if q is not None] == holm([p for p in p_values if p is not None])
    order = list(range(len(p_values)))
    random.shuffle(order)
    assert holm([p_values[i] for i in order]) == [found[i] for i in order]


def test_no_tests_are_a_family_too() -> None:
    assert holm([]) == []
    assert holm([None, None]) == [None, None]


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_what_is_no_probability_is_refused(p: float) -> None:
    with pytest.raises(ZskdError, match="between 0 and 1"):
        holm([0.5, p, 0.2])


def test_images_that_only_one_network_gets_right() -> None:
    found = mcnemar(mask(1, 1, 1, 1, 0, 0, 1), mask(1, 0, 0, 0, 1, 0, 1))
    assert dataclasses.astuple(found) == (3, 1, 7, pytest.approx(10 / 16))


@pytest.mark.parametrize("correct", [mask(), mask(0), mask(1, 0, 1)])
def test_networks_that_are_right_on_the_same_images_do_not_differ(correct: np.ndarray) -> None:
    assert mcnemar(correct, correct.copy()) == McNemarTest(0, 0, len(correct), 1.0)


def test_other_numbers_of_images_cannot_be_compared() -> None:
    with pytest.raises(ZskdError, match="on 3 images and the other on 2"):
        mcnemar(mask(1, 0, 1), mask(1, 0))


@pytest.mark.parametrize(
    ("percent", "n", "half"), [(99, 10_000, 0.195), (87, 10_000, 0.66), (50, 100, 9.8), (100, 500, 0)]
)
def test_sampling_error_as_the_documents_quote_it(percent: float, n: int, half: float) -> None:
    assert sampling_error(percent, n) == pytest.approx(half, abs=0.001)


@pytest.mark.parametrize(("percent", "n"), [(-1, 10), (100.1, 10), (50, 0), (math.nan, 10)])
def test_no_share_has_no_sampling_error(percent: float, n: int) -> None:
    with pytest.raises(ZskdError, match="no share of images"):
        sampling_error(percent, n)


@given(st.lists(st.booleans(), max_size=70))
def test_a_mask_comes_back(correct: list[bool]) -> None:
    text = pack_mask(np.array(correct, dtype=bool))
    found = unpack_mask(text, len(correct))
    assert (found.dtype, found.tolist()) == (np.bool_, correct)
    assert len(text) == 4 * math.ceil(math.ceil(len(correct) / 8) / 3)


def test_the_first_image_is_the_highest_bit() -> None:
    """The format of records: it must not change."""
    assert base64.b64decode(pack_mask(mask(1, 0, 0, 0, 0, 0, 0, 1, 1))) == bytes([0b10000001, 0b10000000])
    assert pack_mask(mask(1, 0, 0, 0, 0, 0, 0, 1, 1)) == "gYA="


@pytest.mark.parametrize(
    ("text", "n", "message"),
    [
        ("gYA=", 8, "2 bytes, which do not hold 8 images"),
        ("gYA=", 17, "2 bytes, which do not hold 17 images"),
        ("gYA=", -9, "do not hold"),
        ("", 1, "0 bytes"),
        ("", -1, "do not hold"),
        ("gYE=", 9, "not that of 9 images"),  # a bit behind the last image
        ("gYB=", 9, "not that of 9 images"),  # a bit in base64's own padding
        ("gYA", 9, "damaged"),
        ("g!A=", 9, "damaged"),
        ("gYA=\n", 9, "damaged"),
        ("gYÄ=", 9, "damaged"),
    ],
)
def test_a_damaged_mask_is_refused(text: str, n: int, message: str) -> None:
    with pytest.raises(ZskdError, match=message):
        unpack_mask(text, n)
