"""The check on pictures of the user's own: intervals and areas against SciPy, scikit-learn and by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom
from sklearn.metrics import recall_score, roc_auc_score

from zskd.core.errors import ZskdError
from zskd.evaluation.agreement import EstimateRecord
from zskd.evaluation.check import Check, check_answers, check_student
from zskd.evaluation.metrics import check_alike
from zskd.evaluation.probes import Signals
from zskd.evaluation.roc import area_under_curve, variance
from zskd.evaluation.statistics import share_of
from zskd.models.classifier import Classifier

TWO = ("healthy", "ill")


def logits(scores: np.ndarray) -> torch.Tensor:
    """Of two classes, such that the larger score is the surer of the second."""
    return torch.from_numpy(np.stack([np.zeros_like(scores), scores], 1)).float()


def answers(predicted: list[int], classes: int) -> torch.Tensor:
    return torch.eye(classes)[predicted]


@pytest.mark.parametrize(("count", "n"), [(0, 20), (1, 20), (19, 20), (20, 20), (47, 50), (150, 200), (1, 1)])
def test_exact_intervals_are_those_of_the_beta_distribution(count: int, n: int) -> None:
    found = share_of(count, n, exact=True)
    low = 0.0 if count == 0 else beta.ppf(0.025, count, n - count + 1)
    high = 1.0 if count == n else beta.ppf(0.975, count + 1, n - count)
    assert found.low == pytest.approx(100 * low, abs=1e-6)
    assert found.high == pytest.approx(100 * high, abs=1e-6)
    assert found.percent == 100 * count / n


def test_of_no_error_in_fifty_the_interval_is_the_one_known_by_hand() -> None:
    """All right: 1 − low is the share whose n-th power is 2.5 %."""
    assert share_of(50, 50, exact=True).low == pytest.approx(100 * 0.025 ** (1 / 50))


def test_the_exact_interval_covers_the_truth_at_least_as_often_as_it_claims() -> None:
    n = 30
    for truth in (0.5, 0.8, 0.93, 0.99):
        covered = 0.0
        for count in range(n + 1):
            found = share_of(count, n, exact=True)
            covered += binom.pmf(count, n, truth) * (found.low <= 100 * truth <= found.high)
        assert covered >= 0.95


def test_the_area_is_that_of_scikit_learn_with_equal_scores() -> None:
    drawn = np.random.default_rng(0)
    for _ in range(20):
        positive = drawn.random(40) < 0.4
        scores = np.round(drawn.normal(size=40) + positive, 1)
        assert area_under_curve(scores, positive).area == pytest.approx(roc_auc_score(positive, scores))


def hanley_mcneil(area: float, size: int) -> float:
    """Variance of an area for two groups of equal size, as the paper of 1982 writes it."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (size - 1) * (q1 - area**2) + (size - 1) * (q2 - area**2)
    return spread / size**2


def test_the_ends_of_its_interval_are_as_far_as_the_variance_there_allows() -> None:
    scores = np.array([0.0, 1, 2, 3, 6, 4, 5, 7, 8, 9])
    positive = np.arange(10) >= 5
    found = area_under_curve(scores, positive)
    assert found.area == 23 / 25
    for end in (found.low, found.high):
        assert abs(found.area - end) == pytest.approx(1.959964 * math.sqrt(hanley_mcneil(end, 5)), rel=1e-5)
    assert variance(0.8, 5, 5) == pytest.approx(hanley_mcneil(0.8, 5))


def test_the_interval_of_a_perfect_and_of_a_reversed_order_has_a_width_and_is_mirrored() -> None:
    positive = np.arange(20) >= 10
    best, worst = (area_under_curve(scores, positive) for scores in (np.arange(20.0), -np.arange(20.0)))
    assert (best.area, best.high) == (1.0, 1.0)
    assert 0.6 < best.low < 0.95
    assert (worst.area, worst.low) == (0.0, 0.0)
    assert worst.high == pytest.approx(1 - best.low)


def test_the_interval_of_the_area_covers_the_truth_about_as_often_as_it_claims() -> None:
    """Normal scores with a distance of d deviations have the area Φ(d/√2)."""
    drawn, distance, times = np.random.default_rng(1), 1.5, 300
    truth = 0.5 * (1 + math.erf(distance / 2))
    covered = 0
    for _ in range(times):
        positive = np.arange(60) < 20
        found = area_under_curve(drawn.normal(size=60) + distance * positive, positive)
        covered += found.low <= truth <= found.high
    assert covered / times >= 0.92


def test_an_area_needs_both_classes() -> None:
    with pytest.raises(ZskdError, match="both classes"):
        area_under_curve(np.zeros(3), np.ones(3, dtype=bool))


def two_classes(positive: str | None = None) -> tuple[Check, np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(2)
    labels = np.array([0] * 30 + [1] * 20)
    scores = drawn.normal(size=50) + 1.5 * labels - 0.7
    teacher = logits(np.where(labels == 1, 5.0, -5.0))
    found = check_answers(teacher, logits(scores), TWO, torch.from_numpy(labels), positive=positive)
    return found, scores, labels


def test_two_classes_have_sensitivity_specificity_and_area() -> None:
    found, scores, labels = two_classes()
    assert found.student is not None
    assert found.teacher is not None
    of_two = found.student.two_classes
    assert of_two is not None
    assert of_two.positive == "ill"
    predicted = (scores > 0).astype(int)
    assert of_two.sensitivity is not None
    assert of_two.specificity is not None
    assert of_two.area is not None
    assert of_two.sensitivity.percent == pytest.approx(100 * recall_score(labels, predicted))
    assert of_two.sensitivity.n == 20
    assert of_two.specificity.percent == pytest.approx(100 * recall_score(1 - labels, 1 - predicted))
    assert of_two.area.area == pytest.approx(roc_auc_score(labels, scores.astype(np.float32)))
    assert (
        found.agreement.percent
        == found.student.accuracy.percent
        == pytest.approx(100 * (predicted == labels).mean())
    )
    assert found.teacher.accuracy.percent == 100


def test_the_other_class_may_be_the_positive_one() -> None:
    (second, _, _), (first, _, _) = two_classes(), two_classes("healthy")
    assert first.student is not None
    assert second.student is not None
    one, other = first.student.two_classes, second.student.two_classes
    assert one is not None
    assert other is not None
    assert (one.positive, one.sensitivity, one.specificity) == (
        "healthy",
        other.specificity,
        other.sensitivity,
    )
    assert one.area is not None
    assert other.area is not None
    assert one.area.area == pytest.approx(other.area.area)


def test_classes_without_a_picture_are_left_out_and_many_classes_have_no_area() -> None:
    teacher, student = answers([0, 0, 1, 1], 4), answers([0, 1, 1, 1], 4)
    labels = torch.tensor([0, 0, 1, 0])
    found = check_answers(teacher, student, ("a", "b", "c", "d"), labels)
    assert found.student is not None
    assert {name: one.n for name, one in found.student.recall.items()} == {"a": 3, "b": 1}
    assert found.student.recall["a"].percent == pytest.approx(100 / 3)
    assert found.student.two_classes is None
    only_ill = check_answers(answers([1, 1], 2), answers([1, 0], 2), TWO, torch.tensor([1, 1])).student
    assert only_ill is not None
    assert only_ill.two_classes is not None
    assert only_ill.two_classes.specificity is None
    assert only_ill.two_classes.area is None


def test_without_labels_there_is_the_agreement() -> None:
    found = check_answers(answers([0, 1, 2, 2], 3), answers([0, 1, 2, 1], 3), ("a", "b", "c"))
    assert (found.agreement, found.teacher, found.student) == (share_of(3, 4, exact=True), None, None)
    assert Check.model_validate_json(found.model_dump_json(), strict=True) == found


def estimate(low: float, high: float) -> EstimateRecord:
    signals = Signals(unexplained=0.1, fragility=0.1, noise=10.0, by_class=(None, None))
    return EstimateRecord(
        percent=None, low=low, high=high, weakest=(), reason="a test", signals=signals, words=("x",)
    )


@pytest.mark.parametrize(
    ("low", "high", "verdict", "words"),
    [
        (90, 99, "held", "held: it is 90.0 to 99.0 %, and 94.00 % ["),
        (95, 99, "open", "is open: it is 95.0 to 99.0 %, and 94.00 % ["),
        (99, 100, "not held", "did not hold: 94.00 % ["),
        (10, 50, "not held", "above its 10.0 to 50.0 %"),
    ],
)
def test_a_sentence_judges_the_estimate(low: float, high: float, verdict: str, words: str) -> None:
    """47 of 50 agree: 83.5 to 98.7 %."""
    same, changed = [0] * 50, [0] * 47 + [1] * 3
    found = check_answers(answers(same, 2), answers(changed, 2), TWO, estimate=estimate(low, high))
    assert found.verdict == verdict
    assert found.sentence is not None
    assert words in found.sentence


def test_what_cannot_be_compared_is_refused(teacher: Classifier) -> None:
    with pytest.raises(ZskdError, match=r"teacher has 3 classes and the student 2"):
        check_alike("teacher", (("a", "b", "c"), (1, 8, 8)), (("a", "b"), (1, 8, 8)))
    with pytest.raises(ZskdError, match="teacher has the student's class b at another place"):
        check_alike("teacher", (("a", "b"), (1, 8, 8)), (("b", "a"), (1, 8, 8)))
    with pytest.raises(ZskdError, match="give healthy or ill"):
        check_answers(answers([0], 2), answers([0], 2), TWO, positive="sick")
    with pytest.raises(ZskdError, match="two classes"):
        check_answers(answers([0], 3), answers([0], 3), ("a", "b", "c"), positive="a")
    with pytest.raises(ZskdError, match="no images"):
        check_answers(torch.empty(0, 2), torch.empty(0, 2), TWO)
    itself = check_student(teacher, teacher, torch.rand(3, 1, 32, 32))
    assert itself.agreement.percent == 100
