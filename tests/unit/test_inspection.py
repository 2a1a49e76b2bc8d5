"""Facts and warnings about a teacher: counts that can be computed by hand, and warnings that are true."""

import re

import pytest
from torch import Tensor, nn

from zskd.config.registry import ARCHITECTURES, GENERATOR_METHODS
from zskd.evaluation.inspection import count_multiply_adds, inspect_teacher
from zskd.models.classifier import Classifier, InputSpec
from zskd.synthesis.similarity import class_similarity


def of(name: str, **arguments: int) -> Classifier:
    return Classifier(ARCHITECTURES.load(name)(**arguments))


def lenet_by_hand(first: int, second: int, hidden: int, last: int) -> int:
    convolutions = 28 * 28 * first * 25 + 10 * 10 * second * first * 25
    return convolutions + 25 * second * hidden + hidden * last + last * 10


@pytest.mark.parametrize(
    ("name", "filters"),
    [
        ("lenet5", (6, 16, 120, 84)),
        ("lenet5_half", (3, 8, 120, 84)),
        ("lenet5_small", (3, 8, 60, 42)),
    ],
)
def test_multiply_adds_are_those_counted_by_hand(name: str, filters: tuple[int, int, int, int]) -> None:
    assert count_multiply_adds(of(name).freeze()) == lenet_by_hand(*filters)


def test_lenet5_takes_416_520_multiply_adds() -> None:
    assert inspect_teacher(of("lenet5")).multiply_adds == 416_520


class OfRows(nn.Module):
    """Rows of an image, one after the other, through a recurrent layer."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.layer, self.head = kind(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x[:, 0])[0][:, -1])


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_the_steps_of_recurrent_layers_are_counted(kind: type[nn.LSTM | nn.GRU], gates: int) -> None:
    network = Classifier(OfRows(kind), spec=InputSpec(shape=(1, 5, 8))).freeze()
    assert count_multiply_adds(network) == 5 * gates * (8 * 6 + 6 * 6) + 6 * 3


def test_the_facts_of_lenet5(teacher: Classifier) -> None:
    found = inspect_teacher(teacher)
    assert (found.head, found.features, found.batch_norms) == ("fc2", 84, 0)
    assert (found.parameters, found.half_parameters) == (61_706, 35_820)
    assert found.similarity.shape == found.concentration.shape == (10, 10)
    assert (found.similarity == class_similarity(teacher.head_weight)).all()
    assert (found.concentration.min(axis=1) == 0).all()
    assert (found.concentration.max(axis=1) == 1).all()
    assert len(found.warnings) == 1


def test_looking_changes_nothing(teacher: Classifier) -> None:
    before = teacher.fingerprint()
    inspect_teacher(teacher)
    assert teacher.fingerprint() == before
    net = of("lenet5_bn")
    before = net.fingerprint()
    inspect_teacher(net)
    assert net.fingerprint() == before


def test_two_classes_are_warned_of() -> None:
    found = inspect_teacher(of("lenet5", classes=2))
    assert any("two classes" in w and "--targets.concentration-floor" in w for w in found.warnings)
    assert not any("two classes" in w for w in inspect_teacher(of("lenet5", classes=3)).warnings)


def test_only_a_network_without_batch_norm_is_warned_of_its_absence() -> None:
    assert any("no batch-norm" in w for w in inspect_teacher(of("lenet5")).warnings)
    found = inspect_teacher(of("lenet5_bn"))
    assert found.batch_norms == 2
    assert not any("no batch-norm" in w for w in found.warnings)


def test_the_warning_names_each_method_that_needs_batch_norm() -> None:
    (warning,) = (w for w in inspect_teacher(of("lenet5")).warnings if "no batch-norm" in w)
    synthesis, generators = warning.split("the generators")
    assert {"deepinversion", "zskd_bn", "adi"} < set(re.findall(r"\w+", synthesis))
    for name in GENERATOR_METHODS:
        assert (name in generators) == GENERATOR_METHODS.load(name).reads_statistics


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((x + self.norm(self.conv(x))).flatten(1))


def test_a_residual_network_has_no_half_and_is_told_the_way_out() -> None:
    found = inspect_teacher(Classifier(Residual(), spec=InputSpec(shape=(1, 8, 8))))
    assert found.half_parameters is None
    assert "--student package.module:factory" in found.warnings[0]
    assert found.multiply_adds == 64 * 9 + 64 * 3


class Behind(nn.Module):
    """A linear layer behind something that may lose its input."""

    def __init__(self, lose: bool, scale: float = 1.0) -> None:
        super().__init__()
        self.lose, self.scale, self.fc = lose, scale, nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.fc(x * 0 if self.lose else x * self.scale)


def warnings_of(module: nn.Module) -> str:
    return "; ".join(inspect_teacher(Classifier(module, spec=InputSpec(shape=(1, 4, 4)))).warnings)


def test_a_network_that_does_not_see_its_input_is_warned_of() -> None:
    assert "the same logits: is the normalisation right?" in warnings_of(Behind(lose=True))
    assert "normalisation" not in warnings_of(Behind(lose=False))


def test_answers_that_are_not_finite_are_warned_of() -> None:
    assert "logits that are not finite" in warnings_of(Behind(lose=False, scale=float("inf")))
