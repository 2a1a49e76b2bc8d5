"""Targets computed from features, against closed forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import logit
from torch import Tensor, nn

from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.config.transforms import WarpConfig
from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier, InputSpec
from zskd.synthesis.inversion.initial import draw_initial
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.inversion.lanes import InversionBatch
from zskd.synthesis.methods.soft_targeted import SoftTargeted, feature_model
from zskd.synthesis.plan import PlanEntry

PLAIN = TargetsConfig(redraws=0)


def teacher_of(
    weight: Tensor, bias: Tensor | None = None, *, front: nn.Module | None = None, seed: int = 0
) -> Classifier:
    """A teacher of 6×6 images whose last layer is given; in front of it a linear layer and what is named."""
    classes, width = weight.shape
    first, head = nn.Linear(36, width), nn.Linear(width, classes, bias=bias is not None)
    with torch.no_grad():
        first.weight.copy_(torch.randn(width, 36, generator=torch.Generator().manual_seed(seed)))
        head.weight.copy_(weight)
        if bias is not None:
            head.bias.copy_(bias)
    module = nn.Sequential(nn.Flatten(), first, *([front] if front else []), head)
    return Classifier(module, spec=InputSpec(shape=(1, 6, 6)), head="3" if front else "2").freeze()


def random_head(classes: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(classes, width, generator=generator) / width**0.5,
        0.3 * torch.randn(classes, generator=generator),
    )


def targets(
    teacher: Classifier, anchors: list[int], config: TargetsConfig = PLAIN, *, spread: float = 1.0
) -> np.ndarray:
    entries = [PlanEntry(i, k, 1.0, True) for i, k in enumerate(anchors)]
    return SoftTargeted(spread=spread).targets(teacher, entries, config, seed=1)


def entropy(y: np.ndarray) -> float:
    return float(-(y * np.log(y + 1e-12)).sum(axis=1).mean())


@settings(max_examples=60)
@example(classes=8, rectified=True, bias=False, spread=0.0, seed=7042)  # class 0 has no direction of its own
@given(
    classes=st.integers(2, 12),
    rectified=st.booleans(),
    bias=st.booleans(),
    spread=st.sampled_from([0.0, 0.5, 1.0, 2.0, 30.0]),
    seed=st.integers(0, 10_000),
)
def test_targets_lie_on_the_simplex_with_the_anchor_on_top(
    classes: int, rectified: bool, bias: bool, spread: float, seed: int
) -> None:
    weight, shift = random_head(classes, 40, seed)
    teacher = teacher_of(weight, shift if bias else None, front=nn.ReLU() if rectified else None)
    anchors = [i % classes for i in range(3 * classes)]
    centred = weight - weight.mean(0)
    scores = (centred.clamp(min=0) if rectified else centred) @ centred.T
    if scores.argmax(1).tolist() != list(range(classes)):
        with pytest.raises(ZskdError, match="along the class vector of class"):
            targets(teacher, anchors, spread=spread)
        return
    for redraws in (1, 100):
        y = targets(teacher, anchors, TargetsConfig(redraws=redraws), spread=spread)
        assert y.dtype == np.float32
        assert (y >= 0).all()
        np.testing.assert_allclose(y.sum(axis=1), 1, atol=1e-5)
        assert y.argmax(axis=1).tolist() == anchors


@pytest.mark.parametrize("front", [None, nn.ReLU()])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("classes", [2, 10])
def test_without_spread_every_target_is_the_teachers_output_for_the_mean(
    classes: int, with_bias: bool, front: nn.Module | None
) -> None:
    weight, bias = random_head(classes, 40)
    teacher = teacher_of(weight, bias if with_bias else None, front=front)
    means = torch.from_numpy(feature_model(teacher).means).float()
    expected = F.softmax(teacher.head(means), dim=1)
    anchors = [i % classes for i in range(4 * classes)]
    np.testing.assert_allclose(
        targets(teacher, anchors, TargetsConfig(), spread=0.0), expected[anchors], atol=1e-5
    )
    confident = expected.diagonal()
    assert float(confident.min()) > 0.95 - 1e-5
    if front is not None:
        assert float(means.min()) == 0
    if classes == 2:  # one other class: the probability is exactly the least one
        torch.testing.assert_close(confident, torch.full((2,), 0.95), atol=1e-5, rtol=0)


@pytest.mark.parametrize("classes", [2, 5])
def test_features_have_the_correlation_of_the_units(classes: int) -> None:
    """Without a ReLU, log-odds between classes are normal with a mean and a covariance that are known."""
    weight, bias = random_head(classes, 12, seed=3)
    teacher, spread, n = teacher_of(weight, bias), 0.7, 6000
    y = targets(teacher, [1] * n, spread=spread).astype(np.float64)
    odds = np.log(y[:, 1:]) - np.log(y[:, :1])
    gaps = (weight[1:] - weight[:1]).double().numpy()
    model = feature_model(teacher)
    mean = gaps @ model.means[1] + (bias[1:] - bias[:1]).double().numpy()
    unit = np.sqrt((model.means**2).mean())
    covariance = (spread * unit) ** 2 * gaps @ np.corrcoef(weight.double().numpy().T) @ gaps.T
    error = np.sqrt(np.diag(covariance) / n)
    assert (np.abs(odds.mean(axis=0) - mean) < 4.5 * error).all()
    sample = np.atleast_2d(np.cov(odds.T))
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    np.testing.assert_allclose(sample / scale, covariance / scale, atol=4.5 * np.sqrt(2 / n))


def test_the_model_follows_a_permutation_of_the_classes() -> None:
    weight, bias = random_head(7, 30)
    order = [3, 0, 6, 1, 5, 2, 4]
    for front in (None, nn.ReLU()):
        one = feature_model(teacher_of(weight, bias, front=front))
        other = feature_model(teacher_of(weight[order], bias[order], front=front))
        np.testing.assert_allclose(other.means, one.means[order], atol=1e-6)
        correlation = one.loadings.T @ one.loadings
        np.testing.assert_allclose(other.loadings.T @ other.loadings, correlation, atol=1e-6)


def test_weights_that_no_output_depends_on_change_nothing() -> None:
    """The same vector added to all classes, the same number to all biases, and a unit without effect."""
    weight, bias = random_head(4, 20)
    shifted = teacher_of(weight + weight[0] * 3, bias + 7)
    anchors = [0, 1, 2, 3] * 3
    plain = targets(teacher_of(weight, bias), anchors, TargetsConfig(), spread=0.8)
    np.testing.assert_allclose(targets(shifted, anchors, TargetsConfig(), spread=0.8), plain, atol=1e-4)
    idle = feature_model(teacher_of(torch.cat([weight, torch.full((4, 1), 2.0)], dim=1), bias))
    assert not idle.loadings[:, -1].any()
    assert not idle.means[:, -1].any()


def test_more_spread_gives_other_and_more_mixed_targets_whose_class_is_not_always_on_top() -> None:
    teacher = teacher_of(*random_head(10, 40), front=nn.ReLU())
    anchors = [i % 10 for i in range(400)]
    still, some, more, much = (targets(teacher, anchors, spread=s) for s in (0, 0.25, 0.5, 2))
    assert entropy(still) < 0.7 * entropy(some)
    assert entropy(some) < 0.7 * entropy(more)
    assert len(np.unique(still, axis=0)) == 10
    assert len(np.unique(some, axis=0)) == 400
    assert (some.argmax(axis=1) != anchors).mean() < 0.1
    assert 0.2 < (much.argmax(axis=1) != anchors).mean() < 0.8


def test_a_target_depends_on_seed_and_index_alone() -> None:
    teacher = teacher_of(*random_head(5, 20))
    entries = [PlanEntry(i, i % 5, beta, True) for i, beta in enumerate([1.0, 0.1] * 10)]
    method = SoftTargeted()
    whole = method.targets(teacher, entries, TargetsConfig(), seed=4)
    alone = method.targets(teacher, [PlanEntry(13, 3, 1.0, False)], TargetsConfig(), seed=4)
    np.testing.assert_array_equal(whole[13:14], alone)
    other = method.targets(teacher, entries, TargetsConfig(), seed=5)
    assert not np.allclose(whole, other, atol=0.01)


class Functional(nn.Module):
    """A ReLU that is no layer, then pooling."""

    def forward(self, values: Tensor) -> Tensor:
        return F.avg_pool1d(values.relu()[:, None], 3, 1, 1)[:, 0]


@pytest.mark.parametrize(
    ("front", "rectified"),
    [
        (None, False),
        (nn.ReLU(), True),
        (nn.Sequential(nn.ReLU(), nn.Dropout(0.5)), True),
        (Functional(), True),
        (nn.Sigmoid(), True),
        (nn.LeakyReLU(0.01), False),
        (nn.GELU(), False),
        (nn.Tanh(), False),
    ],
)
def test_whether_features_can_be_negative_is_detected(front: nn.Module | None, rectified: bool) -> None:
    model = feature_model(teacher_of(*random_head(4, 20), front=front))
    assert model.rectified == rectified
    assert (model.means.min() >= 0) == rectified


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_linear_teacher_is_inverted_exactly(classes: int, with_bias: bool) -> None:
    rows = torch.linalg.qr(torch.randn(36, classes, generator=torch.Generator().manual_seed(0)))[0].T
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, classes, bias=with_bias))
    with torch.no_grad():
        module[1].weight.copy_(8 * rows)
    spec = InputSpec(shape=(1, 6, 6), mean=(0.5,), std=(0.3,))
    teacher = Classifier(module, spec=spec).freeze()
    expected = torch.from_numpy(targets(teacher, [i % classes for i in range(10)], TargetsConfig()))
    assert 0.1 < entropy(expected.numpy()) < np.log(classes)
    starts = draw_initial("uniform", list(range(10)), seed=0, shape=teacher.spec.shape, box=(0.0, 1.0))
    config = SynthesisConfig(
        steps=2000,
        learning_rate=0.005,
        tau=1.0,
        warp=WarpConfig(),
        noise_share=0.0,
        tolerance=0.0,
        batch_size=10,
    )
    images, _ = invert(teacher, InversionBatch(starts, expected), config)
    kl = F.kl_div(F.log_softmax(teacher(images), 1), expected, reduction="none").sum(1)
    assert float(kl.max()) < 1e-4


def test_two_classes_have_real_mixtures_where_zskd_needs_a_floor() -> None:
    y = targets(teacher_of(*random_head(2, 20), front=nn.ReLU()), [0, 1] * 200, TargetsConfig(), spread=1.5)
    assert ((y > 0.05) & (y < 0.95)).any(axis=1).mean() > 0.3
    gaps = logit(np.clip(y[::2, 0], 1e-6, 1 - 1e-6))
    assert gaps.std() > 0.5


def test_a_class_that_never_has_the_largest_logit_is_named() -> None:
    weight, bias = random_head(3, 10)
    weight[1], weight[2] = 0.1 * weight[0], -weight[0]  # one of the others always has a larger logit
    with pytest.raises(
        ZskdError, match="--method soft_targeted: .* class 1, the logit of another class is at least as large"
    ):
        feature_model(teacher_of(weight, bias))
    weight[1] = 0
    with pytest.raises(ZskdError, match="of class 1, the logit of another class is at least as large"):
        feature_model(teacher_of(weight, bias))
    bias[0] = float("nan")
    with pytest.raises(ZskdError, match="not finite"):
        feature_model(teacher_of(weight, bias))
