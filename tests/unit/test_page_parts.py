"""The parts of a page: scales, matrices, calibration, pictures, and tables for other programs."""

import base64
import io
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from zskd.models.classifier import Classifier, InputSpec
from zskd.report.behaviour import _features, measure_calibration
from zskd.report.charts import Scale, matrix_of, scale_of
from zskd.report.pictures import data_uri
from zskd.training.curve import curve_of


@given(
    st.lists(st.floats(0.01, 1e6), min_size=1, max_size=20),
    st.booleans(),
)
def test_every_value_and_some_tick_is_inside_of_the_drawing(values: list[float], logarithmic: bool) -> None:
    scale = scale_of(values, (40, 500), logarithmic=logarithmic)
    assert all(40 <= scale(value) <= 500 for value in values)
    assert scale.ticks
    assert all(40 - 0.1 <= scale(tick) <= 500 + 0.1 for tick in scale.ticks)
    assert scale.ticks == sorted(scale.ticks)


def test_equal_ratios_are_equally_far_on_a_logarithmic_axis() -> None:
    scale = Scale(1, 10_000, (0, 400), logarithmic=True)
    assert [scale(value) for value in (1, 10, 100, 1000)] == [0, 100, 200, 300]
    assert scale_of([50, 100], (0, 1), within=(0, 100)).high == 100


def test_a_matrix_is_coloured_by_what_it_shows() -> None:
    values = [[8, 2, 0], [1, 9, 0], [5, 0, 5]]
    by_row = matrix_of(values, "abc", by_row=True, symmetric=False)
    assert [[cell.strength for cell in row] for row in by_row.rows] == [
        [0.8, 0.2, 0],
        [0.1, 0.9, 0],
        [0.5, 0, 0.5],
    ]
    similar = matrix_of([[1, -0.5, 0], [-0.5, 1, 0.5], [0, 0.5, 1]], "abc", by_row=False, symmetric=True)
    assert [cell.strength for cell in similar.rows[0]] == [1, 0, 0.5]


def test_of_many_classes_the_largest_entries_are_listed() -> None:
    numbers = np.random.default_rng(0).normal(size=(50, 50))
    values = (numbers + numbers.T).tolist()
    found = matrix_of(values, [str(k) for k in range(50)], by_row=False, symmetric=True)
    assert found.rows == ()
    pairs = sorted(((values[k][j], k, j) for k in range(50) for j in range(k + 1, 50)), reverse=True)
    assert [(cell.row, cell.column) for cell in found.largest] == [(str(k), str(j)) for _, k, j in pairs[:30]]


def test_the_calibration_error_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(400, 4))
    logits[:20, 0] = 1e4  # a confidence of exactly 1 counts, too
    probabilities = torch.tensor(logits).softmax(1)
    labels = torch.tensor(rng.integers(0, 4, 400))
    found = measure_calibration(probabilities, labels)
    confidence, predicted = probabilities.max(1)
    edges, error, counted = np.linspace(0, 1, 11), 0.0, 0
    for low, high in itertools.pairwise(edges):
        inside = [
            row for row in range(400) if low <= confidence[row] < high or (high == 1 and confidence[row] == 1)
        ]
        counted += len(inside)
        if inside:
            hits = np.mean([float(predicted[row] == labels[row]) for row in inside])
            error += len(inside) / 400 * abs(hits - np.mean([float(confidence[row]) for row in inside]))
    assert counted == sum(one.n for one in found.bins) == 400
    assert math.isclose(found.error, 100 * error, rel_tol=1e-9)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (2, "L"), (5, "L")])
def test_an_image_of_any_channels_is_a_picture_of_the_page(channels: int, mode: str) -> None:
    image = torch.rand(channels, 7, 9)
    kind, data = data_uri(image).split(",")
    assert kind == "data:image/png;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (picture.mode, picture.size) == (mode, (9, 7))
    shown = np.asarray(picture, dtype=float) / 255
    expected = image.permute(1, 2, 0).numpy() if channels == 3 else image.mean(0).numpy()
    assert np.abs(shown - expected).max() <= 0.5 / 255 + 1e-6


def test_features_of_large_images_are_read_in_smaller_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2))
    teacher = Classifier(network, spec=InputSpec(shape=(1, 256, 256))).freeze()
    images, parts = torch.rand(40, 1, 256, 256), []
    monkeypatch.setattr("zskd.report.behaviour._BATCH", 160)  # of images of 64×64: 16 times as large
    features = teacher.features
    monkeypatch.setattr(teacher, "features", lambda part: (parts.append(len(part)), features(part))[1])
    assert _features(teacher, images).shape == (40, 4)
    assert parts == [10] * 4


def test_a_large_image_is_made_smaller() -> None:
    picture = Image.open(io.BytesIO(base64.b64decode(data_uri(torch.rand(3, 300, 200)).split(",")[1])))
    assert max(picture.size) <= 96


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=900))
def test_a_curve_loses_no_step(losses: list[float]) -> None:
    curve = curve_of(losses)
    ends = [0, *curve.steps]
    counts = [last - first for first, last in itertools.pairwise(ends)]
    assert ends[-1] == len(losses)
    assert min(counts) > 0
    assert max(counts) - min(counts) <= 1
    whole = sum(count * mean for count, mean in zip(counts, curve.losses, strict=True))
    assert whole == pytest.approx(sum(losses), rel=1e-9, abs=1e-3)
