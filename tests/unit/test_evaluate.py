"""Shares with their intervals, accuracy and agreement, on classifiers whose outputs are known."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from zskd.core.errors import ZskdError
from zskd.data.datasets import Split
from zskd.evaluation.metrics import accuracies, accuracy, agreement, predict
from zskd.evaluation.statistics import share_of
from zskd.models.classifier import Classifier, InputSpec


def chooser(order: tuple[int, ...] = (0, 1, 2), names: tuple[str, ...] = ("a", "b", "c")) -> Classifier:
    """Gives class k for an image whose brightest of four pixels is number order[k]."""
    layer = nn.Linear(4, len(order), bias=False)
    layer.weight.data = torch.eye(4)[list(order)]
    return Classifier(
        nn.Sequential(nn.Flatten(), layer), spec=InputSpec(shape=(1, 2, 2)), class_names=names
    ).freeze()


def lit(pixels: list[int]) -> Tensor:
    return torch.eye(4)[pixels].view(-1, 1, 2, 2)


def split(pixels: list[int], labels: list[int]) -> Split:
    return Split(lit(pixels), torch.tensor(labels, dtype=torch.int64))


def wilson(count: int, n: int) -> tuple[float, float]:
    """Wilson 1927, equation by hand."""
    z, p = 1.959963984540054, count / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return 100 * (middle - half), 100 * (middle + half)


@pytest.mark.parametrize(("count", "n"), [(8, 10), (0, 10), (10, 10), (1, 1), (9_853, 10_000), (3, 500)])
def test_a_share_has_its_wilson_interval(count: int, n: int) -> None:
    found = share_of(count, n)
    low, high = wilson(count, n)
    assert found.percent == pytest.approx(100 * count / n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
    interval = binomtest(count, n).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == (100 * interval.low, 100 * interval.high)
    assert 0 <= found.low <= found.percent <= found.high <= 100
    assert found.n == n


def test_eight_of_ten_is_the_textbook_interval() -> None:
    assert str(share_of(8, 10)) == "80.00 % [49.02, 94.33] of 10"
    assert str(share_of(60_000, 60_000)) == "100.00 % [99.99, 100.00] of 60,000"


def test_no_images_are_no_measurement() -> None:
    with pytest.raises(ZskdError, match="no images to measure on"):
        share_of(0, 0)
    with pytest.raises(ZskdError, match="no images to measure on"):
        accuracy(chooser(), split([], []))
    with pytest.raises(ZskdError, match="no images to measure on"):
        agreement(chooser(), chooser(), lit([]))


def test_accuracy_is_the_share_of_labels_that_are_given() -> None:
    found = accuracy(chooser(), split([0, 1, 2, 0, 1], [0, 1, 2, 1, 1]))
    assert (found.percent, found.n) == (80, 5)


def test_agreement_is_the_share_of_equal_answers() -> None:
    found = agreement(chooser((0, 1, 2)), chooser((0, 2, 1)), lit([0, 0, 1, 2, 0]))
    assert (found.percent, found.n) == (60, 5)
    assert agreement(chooser(), chooser(), lit([2, 1, 0])).percent == 100


@pytest.mark.parametrize("n", [1, 499, 500, 501, 1203])
def test_answers_come_in_order_over_any_number_of_batches(n: int) -> None:
    pixels = np.random.default_rng(n).integers(0, 3, n).tolist()
    assert predict(chooser(), lit(pixels)).tolist() == pixels


def test_measuring_switches_dropout_off() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.99), nn.Linear(4, 3))
    classifier = Classifier(module, spec=InputSpec(shape=(1, 2, 2)))
    classifier.train()
    images = torch.rand(50, 1, 2, 2)
    found = predict(classifier, images)
    assert torch.equal(found, predict(classifier, images))


def test_answers_can_be_trained_on() -> None:
    images = torch.rand(5, 1, 2, 2)
    student = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    nn.functional.cross_entropy(student(images), predict(chooser(), images)).backward()
    assert student[1].weight.grad.abs().sum() > 0


def test_images_of_another_size_are_refused() -> None:
    images = Split(torch.rand(2, 1, 3, 3), torch.tensor([0, 1]))
    with pytest.raises(ZskdError, match=r"images are \(1, 3, 3\), and the network takes \(1, 2, 2\)"):
        accuracy(chooser(), images)


def test_more_classes_than_the_network_has_are_refused() -> None:
    with pytest.raises(ZskdError, match="more classes than the network's 3"):
        accuracy(chooser(), split([0, 1], [0, 3]))


def test_accuracy_by_class_names_the_classes_that_occur() -> None:
    _, found = accuracies(chooser(), split([0, 0, 0, 0, 2], [0, 0, 0, 2, 2]))
    assert found == {"a": 100.0, "c": 50.0}
    assert list(found) == ["a", "c"]


def test_agreement_of_networks_with_other_classes_is_refused() -> None:
    with pytest.raises(ZskdError, match="class"):
        agreement(chooser((0, 1), ("a", "b")), chooser(), lit([0, 1]))


def test_agreement_on_images_of_another_size_is_refused() -> None:
    with pytest.raises(ZskdError, match=r"images are \(1, 3, 3\)"):
        agreement(chooser(), chooser(), torch.rand(2, 1, 3, 3))
