from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd.config.distillation import DistillConfig
from zskd.config.registry import LOSSES
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress
from zskd.data.datasets import Split
from zskd.distillation.distill import distill
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.synthesis.real import build_real_set
from zskd.transfer_set.dataset import TransferSet


def logits(seed: int, n: int = 5, k: int = 7) -> Tensor:
    return 3 * torch.randn(n, k, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["kl", "l1", "mse"])
def test_the_loss_is_zero_for_equal_logits(name: str) -> None:
    z = logits(0)
    assert float(LOSSES.load(name)(z, z, DistillConfig())) == pytest.approx(0, abs=1e-6)
    assert float(LOSSES.load(name)(z, logits(1), DistillConfig())) > 0.1


@pytest.mark.parametrize(("name", "unchanged"), [("kl", True), ("ce", True), ("l1", False), ("mse", False)])
def test_a_constant_added_to_all_logits(name: str, unchanged: bool) -> None:
    s, t = logits(0), logits(1)
    before, after = LOSSES.load(name)(s, t, DistillConfig()), LOSSES.load(name)(s + 2, t, DistillConfig())
    assert (float(before) == pytest.approx(float(after), abs=1e-4)) is unchanged


def test_gradient_of_kl_becomes_that_of_mse_as_tau_grows() -> None:
    """For mean-centred logits, d(τ²·KL)/dz → (z_s − z_t)/K  (Hinton et al. 2015, section 2.1)."""
    s, t = (z - z.mean(dim=1, keepdim=True) for z in (logits(0), logits(1)))
    s.requires_grad_(True)
    loss = LOSSES.load("kl")(s, t, DistillConfig(tau=100.0)) * len(t)
    (gradient,) = torch.autograd.grad(loss, s)
    torch.testing.assert_close(gradient, (s - t).detach() / s.shape[1], atol=0.02, rtol=0.1)


def test_tau_squared_is_a_factor_of_its_own() -> None:
    s, t = logits(0), logits(1)
    with_factor = LOSSES.load("kl")(s, t, DistillConfig(tau=20.0))
    without = LOSSES.load("kl")(s, t, DistillConfig(tau=20.0, tau_squared=False))
    torch.testing.assert_close(with_factor, 400 * without)


def test_kl_has_the_gradient_of_the_cross_entropy_that_the_paper_writes() -> None:
    s, t = logits(0).requires_grad_(True), logits(1)
    (kl,) = torch.autograd.grad(LOSSES.load("kl")(s, t, DistillConfig(tau=4.0, tau_squared=False)), s)
    cross = -(torch.softmax(t / 4, 1) * torch.log_softmax(s / 4, 1)).sum(1).mean()
    (ce,) = torch.autograd.grad(cross, s)
    torch.testing.assert_close(kl, ce)


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_loss_falls_when_it_is_minimised(name: str) -> None:
    student, t = logits(0).requires_grad_(True), logits(1)
    first = LOSSES.load(name)(student, t, DistillConfig())
    optimiser = torch.optim.Adam([student], 0.05)
    for _ in range(60):
        optimiser.zero_grad()
        LOSSES.load(name)(student, t, DistillConfig()).backward()
        optimiser.step()
    assert float(LOSSES.load(name)(student.detach(), t, DistillConfig())) < 0.5 * float(first.detach())


SPEC = InputSpec(shape=(1, 6, 6))


class Counting(nn.Module):
    """A network that counts the images that it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(36, 8), nn.Linear(8, 4)
        self.received = 0

    def forward(self, images: Tensor) -> Tensor:
        self.received += len(images)
        return self.head(torch.tanh(self.hidden(images.flatten(1))))


@pytest.fixture
def counting_teacher() -> Classifier:
    """A teacher whose predictions differ from the labels."""
    return Classifier(fresh_weights(Counting, 1), spec=SPEC).freeze()


@pytest.fixture
def labelled(counting_teacher: Classifier, tmp_path: Path) -> TransferSet:
    numbers = torch.Generator().manual_seed(0)
    split = Split(torch.rand(24, 1, 6, 6, generator=numbers), torch.arange(24) % 4)
    return build_real_set(counting_teacher, split, tmp_path / "set", count=24)


class Recorded(Progress):
    """Stores the curves."""

    listens = True

    def __init__(self) -> None:
        self.points: dict[str, list[float]] = {}

    def note(self, name: str, value: float, step: int) -> None:
        self.points.setdefault(name, []).append(value)


def fresh() -> nn.Module:
    return fresh_weights(Counting, 5)


def first_loss(teacher: Classifier, images: TransferSet, **weights: float) -> tuple[float, set[str]]:
    """Loss of the first step, whose batch is the whole set, and which curves there are."""
    progress = Recorded()
    config = DistillConfig(steps=1, batch_size=len(images), tau=4.0, augment=AugmentConfig(), **weights)
    distill(teacher, fresh(), images, config, progress=progress)
    return progress.points["distill/loss"][0], set(progress.points)


def by_hand(teacher: Classifier, images: TransferSet) -> tuple[float, float]:
    """KL with the teacher and cross-entropy with the labels of an untrained student."""
    pixels = images.all_images()
    with torch.no_grad():
        logits, teacher_logits = fresh()(pixels), teacher(pixels)
        hinton = 16 * (
            F.softmax(teacher_logits / 4, 1)
            * (F.log_softmax(teacher_logits / 4, 1) - F.log_softmax(logits / 4, 1))
        )
        picked = -F.log_softmax(logits, 1)[torch.arange(len(logits)), images.labels]
    return float(hinton.sum(1).mean()), float(picked.mean())


@pytest.mark.parametrize(("teachers", "labels"), [(1.0, 0.0), (0.0, 1.0), (0.0, 2.5), (0.7, 0.3)])
def test_the_loss_is_the_weighted_sum_of_both(
    teachers: float, labels: float, counting_teacher: Classifier, labelled: TransferSet
) -> None:
    kl, cross = by_hand(counting_teacher, labelled)
    assert min(kl, cross, abs(kl - cross)) > 0.01  # one cannot be taken for the other
    loss, curves = first_loss(counting_teacher, labelled, teacher_weight=teachers, label_weight=labels)
    assert loss == pytest.approx(teachers * kl + labels * cross, rel=1e-4)
    assert ("distill/agreement" in curves) is (teachers > 0)


def test_a_teacher_without_weight_receives_no_images(
    counting_teacher: Classifier, labelled: TransferSet
) -> None:
    network = counting_teacher.module
    assert isinstance(network, Counting)
    steps, batch = 6, 8
    for weights, images in (((1.0, 0.0), steps * batch), ((0.3, 0.7), steps * batch), ((0.0, 1.0), 0)):
        before = network.received
        teachers, labels = weights
        config = DistillConfig(
            steps=steps,
            batch_size=batch,
            augment=AugmentConfig(),
            teacher_weight=teachers,
            label_weight=labels,
        )
        distill(counting_teacher, fresh(), labelled, config)
        assert network.received - before == images


def test_a_student_of_labels_alone_learns_them_and_not_the_teachers_predictions(
    counting_teacher: Classifier, labelled: TransferSet
) -> None:
    def accuracies(**weights: float) -> tuple[float, float]:
        config = DistillConfig(
            steps=300, batch_size=24, learning_rate=0.02, augment=AugmentConfig(), **weights
        )
        student = distill(counting_teacher, fresh(), labelled, config)
        pixels = labelled.all_images()
        with torch.no_grad():
            predicted, by_teacher = student(pixels).argmax(1), counting_teacher(pixels).argmax(1)
        assert float((by_teacher == labelled.labels).double().mean()) < 0.6
        return float((predicted == labelled.labels).double().mean()), float(
            (predicted == by_teacher).double().mean()
        )

    of_labels, of_teacher = accuracies(teacher_weight=0.0, label_weight=1.0), accuracies()
    assert of_labels[0] > 0.95 > of_labels[1]
    assert of_teacher[1] > 0.95 > of_teacher[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_weight": 0.0}, "--distill.teacher-weight and --distill.label-weight are both 0"),
        ({"teacher_weight": -1.0}, "--distill.teacher-weight is -1.0: it must be at least 0"),
        ({"label_weight": -0.1}, "--distill.label-weight is -0.1: it must be at least 0"),
        ({"label_weight": float("nan")}, "--distill.label-weight is nan"),
        ({"label_weight": 1.0}, "--distill.label-weight must be 0 where images are mixed"),
        ({"label_weight": 1.0, "augment": AugmentConfig(mixup=0.1)}, "must be 0 where images are mixed"),
        ({"label_weight": 1.0, "augment": AugmentConfig(cutmix=0.1)}, "must be 0 where images are mixed"),
    ],
)
def test_invalid_weights_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ZskdError) as error:
        DistillConfig(**settings)
    assert message in str(error.value)


def test_labels_can_be_used_with_images_that_are_moved_but_not_mixed() -> None:
    moved = DistillConfig(
        label_weight=1.0, augment=AugmentConfig(rotation=35.0, shift=0.1, gaussian=0.1, flip=0.5)
    )
    assert moved.augment.changes
