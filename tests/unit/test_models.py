import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd.config.registry import ARCHITECTURES
from zskd.core.errors import ZskdError
from zskd.models.chain import build_layers, read_layers
from zskd.models.factory import Factory, Layers, build, describe, describe_half, half


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [("lenet5", 61_706), ("lenet5_half", 35_820), ("lenet5_small", 15_738), ("lenet5_bn", 61_750)],
)
def test_parameter_counts(name: str, count: int) -> None:
    module = ARCHITECTURES.load(name)()
    assert parameters(module) == count
    assert module.eval()(torch.rand(2, 1, 32, 32)).shape == (2, 10)


def test_built_in_networks_take_other_sizes_channels_and_classes() -> None:
    module = build(describe("lenet5", shape=(3, 28, 28), classes=4), run_code=False)
    assert module(torch.rand(2, 3, 28, 28)).shape == (2, 4)


def test_half_of_lenet5_is_the_student_of_the_paper() -> None:
    assert parameters(half(ARCHITECTURES.load("lenet5")())) == 35_820


class Written(nn.Module):
    """LeNet-5 as people write it, with functional calls and a view that reads the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(torch.relu(self.conv2(x)), (2, 2))
        x = x.view(x.size(0), -1)
        x = self.fc1(x).relu()
        return self.fc3(F.relu(self.fc2(x)))


class Reshaped(Written):
    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.reshape(x.shape[0], -1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


@pytest.mark.parametrize("module", [Written(), Reshaped()])
def test_layers_read_off_a_forward_pass_are_the_same_function(module: nn.Module) -> None:
    rebuilt = build_layers(read_layers(module))
    for own, read in zip(module.parameters(), rebuilt.parameters(), strict=True):
        assert own.shape == read.shape
        read.data.copy_(own)
    x = torch.rand(3, 1, 32, 32)
    torch.testing.assert_close(rebuilt(x), module(x))
    assert parameters(half(module)) == 35_820


def test_layers_keep_what_is_not_their_default() -> None:
    class Softened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 6, 3, padding=1, padding_mode="reflect")
            self.norm = nn.BatchNorm2d(6, affine=False)
            self.elu, self.gelu = nn.ELU(0.3), nn.GELU("tanh")
            self.fc = nn.Linear(6 * 16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.gelu(self.elu(self.norm(self.conv(x))))
            x = F.avg_pool2d(F.gelu(x, approximate="tanh"), 2, divisor_override=3)
            return self.fc(torch.flatten(F.elu(x, 0.2), 1))

    module = Softened().eval()
    rebuilt = build_layers(json.loads(json.dumps(read_layers(module)))).eval()
    rebuilt.load_state_dict(dict(zip(rebuilt.state_dict(), module.state_dict().values(), strict=True)))
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(rebuilt(x), module(x))
    assert half(module)[0].padding_mode == "reflect"


def test_half_keeps_batch_norm_dropout_and_strides_in_step() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 3),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(128, 7),
    )
    student = half(module)
    assert [m.out_channels for m in student if isinstance(m, nn.Conv2d)] == [8, 16]
    assert [m.num_features for m in student if isinstance(m, nn.BatchNorm2d)] == [8, 16]
    assert student[0].bias is None
    assert student(torch.rand(2, 3, 16, 16)).shape == (2, 7)


def test_half_of_a_network_without_convolutions_has_half_the_hidden_units() -> None:
    student = half(nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.Tanh(), nn.Linear(30, 4)))
    assert [(m.in_features, m.out_features) for m in student if isinstance(m, nn.Linear)] == [
        (64, 15),
        (15, 4),
    ]


@pytest.mark.parametrize(
    "flatten", [nn.Flatten(1, 3), nn.Flatten(-3), nn.Sequential(nn.Flatten(2), nn.Flatten())]
)
def test_half_reads_channels_however_they_are_flattened(flatten: nn.Module) -> None:
    student = half(nn.Sequential(nn.Conv2d(1, 8, 3), flatten, nn.Linear(8 * 36, 2)))
    assert student(torch.rand(3, 1, 8, 8)).shape == (3, 2)


def test_the_description_of_half_survives_json() -> None:
    description = Layers.model_validate_json(
        describe_half(ARCHITECTURES.load("lenet5_bn")()).model_dump_json(), strict=True
    )
    assert build(description, run_code=False)(torch.rand(2, 1, 32, 32)).shape == (2, 10)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((x + self.conv(x)).flatten(1))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.fc(x)
        return self.fc(-x)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (Residual(), "branches at|holds"),
        (Branching(), "cannot be traced"),
        (nn.Sequential(nn.Softplus(), nn.Linear(4, 3)), "is a Softplus"),
        (nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Flatten(), nn.Linear(8, 2)), "grouped"),
        (
            nn.Sequential(
                nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Linear(6, 4), nn.Flatten(), nn.Linear(8 * 6 * 4, 2)
            ),
            "rows",
        ),
        (
            nn.Sequential(
                nn.Conv2d(1, 8, 3), nn.Flatten(2), nn.Linear(36, 4), nn.Flatten(), nn.Linear(32, 2)
            ),
            "rows",
        ),
    ],
)
def test_other_networks_have_no_half_and_the_error_names_the_way_out(module: nn.Module, why: str) -> None:
    with pytest.raises(ZskdError, match=rf"({why}).*--student package.module:factory"):
        half(module)


def test_a_card_cannot_ask_for_any_class_of_torch() -> None:
    with pytest.raises(ZskdError, match="may not contain the layer 'Module'"):
        build(Layers(layers=(("Module", {}),)), run_code=False)


def test_a_card_cannot_run_code(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    architecture = Factory(factory=f"{tmp_path / 'evil.py'}:build")
    with pytest.raises(ZskdError, match="a card may not run"):
        build(architecture, run_code=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def build():\n    return 3", "returned a int"),
        ("def build():\n    raise ValueError('no gpu')", "no gpu"),
        ("def other():\n    pass", "no attribute 'build'"),
    ],
)
def test_factories_that_fail_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "net.py").write_text(text)
    with pytest.raises(ZskdError, match=message):
        build(Factory(factory=f"{tmp_path / 'net.py'}:build"), run_code=True)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("lenet4", (1, 32, 32), "did you mean lenet5"),
        ("lenet5", (1, 8, 8), "at least 16"),
    ],
)
def test_unknown_names_and_sizes(name: str, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ZskdError, match=message):
        describe(name, shape=shape, classes=10)
