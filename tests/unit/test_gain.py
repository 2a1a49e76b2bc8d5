"""What a network costs: counts that are known otherwise, times that are only ordered."""

from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import Lines
from zskd.config.registry import ARCHITECTURES
from zskd.core.errors import ZskdError
from zskd.core.tensors import save_tensors, stored_bytes
from zskd.distillation.architecture import describe_student
from zskd.evaluation import gain
from zskd.evaluation.gain import Gain, gain_table, measure_costs, measure_gain
from zskd.evaluation.sizes import log_sizes
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.deployed import deployed
from zskd.models.fused_conv import FixedConv

SMALL = (1, 16, 16)
SHORT = 0.05


def of(name: str, shape: tuple[int, int, int] = SMALL) -> Classifier:
    module = ARCHITECTURES.load(name)(channels=shape[0], size=shape[1])
    return Classifier(module, spec=InputSpec(shape=shape))


@pytest.fixture(scope="module")
def found() -> Gain:
    """A network with a hundred times the work of the other."""
    return measure_gain(of("vgg8(width=0.5)"), of("mlp(widths=(8,))"), seconds=SHORT)


def test_a_hundred_times_the_work_takes_longer(found: Gain) -> None:
    assert found.teacher.multiply_adds > 100 * found.student.multiply_adds
    assert min(found.speedups) > 1
    assert [one.batch for one in found.teacher.latency] == [one.batch for one in found.student.latency]
    assert found.teacher.latency[0].batch == 1


def test_the_record_is_whole_and_read_back(found: Gain) -> None:
    assert Gain.model_validate_json(found.model_dump_json(), strict=True) == found
    for one in (*found.teacher.latency, *found.student.latency):
        assert one.low <= one.median <= one.high
        assert one.passes >= 1


def test_the_table_has_the_share_of_the_teacher(found: Gain) -> None:
    table = gain_table(("teacher", "student"), (found.teacher, found.student))
    parameters = 256 * 8 + 8 + 8 * 10 + 10
    assert table.rows[1][1] == f"{parameters:,}\n({parameters / found.teacher.parameters:.2g}×)"
    assert "0.0022" in table.rows[1][1], "a small share is not told as none"
    assert table.rows[0][1] == f"{found.teacher.parameters:,}"


@pytest.mark.parametrize("name", ["lenet5", "resnet8", "mlp(norm=group)", "mobilenet(width=0.1)"])
def test_bytes_are_those_of_the_file(name: str, tmp_path: Path) -> None:
    tensors = {key: value.contiguous() for key, value in of(name).module.state_dict().items()}
    tensors["größe"] = torch.zeros(3, dtype=torch.uint8)
    save_tensors(tensors, tmp_path / "a")
    assert stored_bytes(tensors) == (tmp_path / "a").stat().st_size


class ThreeProbabilities(nn.Module):
    """Returns probabilities in a tuple, after convolution, batch-norm and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.last = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 3))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.last(self.layers(images)).softmax(1),)


@pytest.mark.parametrize("name", ["lenet5_bn", "resnet8", "probabilities"])
def test_what_is_timed_outputs_what_the_network_does(name: str) -> None:
    """Also where batch-norm has statistics, and where probabilities are turned into logits."""
    if name == "probabilities":
        network = Classifier(ThreeProbabilities(), spec=InputSpec(shape=SMALL))
    else:
        network = of(name)
    for layer in network.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    images = torch.rand(8, *SMALL)
    before = network.fingerprint()
    made = deployed(network)
    assert any(isinstance(layer, FixedConv) for layer in made.module.modules())
    expected = network.eval()(images)
    assert torch.allclose(made(images), expected, atol=1e-5 * float(expected.detach().abs().max()))
    assert network.fingerprint() == before
    assert all(value.requires_grad for value in network.module.parameters())


def test_a_slow_network_is_timed_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gain._that_fit_time(1e-4, 1.0) == 64
    assert gain._that_fit_time(0.01, 1.0) == 32
    assert gain._that_fit_time(10.0, 1.0) == 1
    monkeypatch.setattr(gain, "_that_fit_time", lambda *_: 1)
    (only,) = measure_costs([of("mlp(widths=(8,))")], seconds=SHORT)
    assert [one.batch for one in only.latency] == [1]
    assert gain_table(["teacher"], [only]).head[-1] == "µs per image, batch 1"


def test_large_images_are_timed_in_batches_that_fit_into_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    network = of("mlp(widths=(8,))", (1, 72, 72))
    assert gain._that_fit_memory([network]) == 64
    monkeypatch.setattr(gain, "available_memory", lambda: 10 * 72 * 72 * 4)
    assert gain._that_fit_memory([network]) in (1, 2, 4)


def test_auto_offers_three_sizes_and_tells_the_one_that_was_asked_for() -> None:
    teacher, shown = of("lenet5"), Lines()
    log_sizes(["resnet8", "auto:large"], teacher, shown)
    rows = ["network", "teacher", "auto:small:", "auto:medium:", "auto:large:"]
    assert [one for line in shown.lines if (one := line.partition(" ")[0]) in rows] == rows
    large = describe_student("auto:large", teacher).title
    assert shown.lines[-1].startswith(f"student auto:large: {large}, ")
    assert sum(line.startswith("student ") for line in shown.lines) == 1


def test_a_named_network_in_place_of_a_copy_is_told_with_the_reason() -> None:
    """A single linear layer has no channels between inputs and logits."""
    one_layer = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    teacher, shown = Classifier(one_layer, spec=InputSpec(shape=SMALL)), Lines()
    log_sizes(["narrow:0.5"], teacher, shown)
    (line,) = shown.lines
    name = describe_student("narrow:0.5", teacher).title
    assert line.startswith(f"student narrow:0.5: {name}, ")
    why = "no narrow:0.5 of this network can be made, because "
    assert f"({why}" in line
    with pytest.raises(ZskdError, match=f"{why.replace('0.5', '0.01')}.*; a budget of 25 "):
        log_sizes(["narrow:0.01"], teacher, shown)


def test_students_without_a_size_are_not_told() -> None:
    shown = Lines()
    log_sizes(["resnet8", "half"], of("lenet5"), shown)
    assert shown.lines == []
