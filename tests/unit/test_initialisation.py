"""Initialisation of a narrower student from its teacher: weight selection and layer-wise fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.testing import assert_close

from zskd.config.distillation import DistillConfig, GeneratorConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress
from zskd.data.datasets import Split
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.distillation.build import build_student
from zskd.distillation.initialisation.chain import initialise_chain
from zskd.distillation.initialisation.from_teacher import initialise_from_teacher
from zskd.distillation.spec import StudentSpec
from zskd.evaluation.metrics import agreement, predict
from zskd.models.checkpoint import load_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import describe, half
from zskd.synthesis.real import build_real_set
from zskd.transfer_set.dataset import TransferSet

SPEC = InputSpec(shape=(2, 12, 12), mean=(0.4,), std=(0.3,))


class Written(nn.Module):
    """A chain as users write it: functional calls, and a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 8, 3, padding="same"), nn.Conv2d(8, 6, 3, stride=2, padding=1)
        self.third, self.fourth = nn.Linear(6 * 3 * 3, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.first(x), 2))
        x = F.gelu(self.second(x))
        return self.fourth(F.relu(self.third(x.view(x.size(0), -1))))


def convolutions(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, width, 3, padding=(0, 1), dilation=(2, 1)),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, (2, 3), stride=(1, 2)),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(0.1),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(4 * width, 4, bias=False),
    )


def units(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(288, width), nn.Tanh(), nn.Linear(width, 4))


def seeded(build: object, *arguments: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module: nn.Module = build(*arguments)  # type: ignore[operator]
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for values in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                    assert values is not None
                    nn.init.uniform_(values, 0.5, 1.5)
        return module


NETWORKS = {
    "written": lambda: seeded(Written),
    "convolutions": lambda: seeded(convolutions, 8),
    "units": lambda: seeded(units, 10),
    "many units": lambda: seeded(units, 40),
}


def of(module: nn.Module) -> Classifier:
    return Classifier(module, spec=SPEC, copy=False)


def initialise_classifier(teacher: Classifier, student: Classifier) -> bool:
    rng = Generator().manual_seed(1)
    return initialise_chain(teacher, student, lambda: torch.rand(300, *SPEC.shape, generator=rng), rng)


def initialise(teacher: nn.Module, student: nn.Module) -> bool:
    return initialise_classifier(of(teacher), of(student))


def difference(one: nn.Module, other: nn.Module) -> float:
    """RMS difference of the logits on held-out images, relative to their standard deviation."""
    fresh = torch.rand(100, *SPEC.shape, generator=Generator().manual_seed(3))
    with torch.no_grad():
        logits, expected = (of(module).freeze()(fresh) for module in (one, other))
    return float((logits - expected).square().mean().sqrt() / (expected - expected.mean(0)).std())


def weighted(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_without_effect_are_removed_and_the_logits_stay(name: str) -> None:
    teacher = NETWORKS[name]()
    student = half(teacher)
    narrower = list(zip(weighted(teacher), weighted(student), strict=True))
    for (source, layer), following in zip(narrower, weighted(teacher)[1:], strict=False):
        width, removed = len(source.weight), len(source.weight) - len(layer.weight)  # type: ignore[arg-type]
        chosen = torch.randperm(width, generator=Generator().manual_seed(4))[:removed]
        by_channel = following.weight.detach().view(len(following.weight), width, -1)  # type: ignore
        by_channel[:, chosen] = 0
    assert difference(student, teacher) > 0.3
    assert initialise(teacher, student)
    assert difference(student, teacher) < 1e-3


@pytest.mark.parametrize("width", [10, 40])
def test_duplicate_channels_become_one(width: int) -> None:
    """Copied weights alone would give half of the input: the fit must correct it."""
    teacher = seeded(units, width)
    first = weighted(teacher)[0]
    with torch.no_grad():
        for values in (first.weight, first.bias):
            values[width // 2 :] = values[: width // 2]  # type: ignore[index]
    student = half(teacher)
    assert initialise(teacher, student)
    assert difference(student, teacher) < 0.02


def test_channels_are_selected_by_their_effect_on_the_logits_and_not_by_their_size() -> None:
    """Half of the channels have large weights, but the next layer's ReLU removes their effect."""
    teacher = nn.Sequential(
        nn.Flatten(), nn.Linear(288, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in weighted(teacher):
            layer.reset_parameters()  # type: ignore[operator]
    second = weighted(teacher)[1]
    with torch.no_grad():
        second.weight[:3, 4:] = 0  # type: ignore[index, operator]
        second.weight[3:, :4] = 0  # type: ignore[index, operator]
        second.weight[3:, 4:] *= 50  # type: ignore[index, operator]
        second.bias[3:] = -1000  # type: ignore[index, operator]
    student = nn.Sequential(
        nn.Flatten(), nn.Linear(288, 4), nn.ReLU(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)
    )
    assert initialise(teacher, student)
    assert difference(student, teacher) < 0.02


@pytest.mark.parametrize("name", NETWORKS)
def test_an_initialised_student_is_nearer_to_the_teacher_than_a_random_one(name: str) -> None:
    teacher = NETWORKS[name]()
    student = half(teacher)
    assert initialise(teacher, student)
    assert difference(student, teacher) < 0.8
    assert difference(half(teacher), teacher) > 1.0


def test_a_student_as_wide_as_the_teacher_becomes_the_teacher() -> None:
    teacher, student = NETWORKS["convolutions"](), convolutions(8)
    assert initialise(teacher, student)
    assert difference(student, teacher) < 1e-4


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        pytest.param(units(4), units(5), id="wider"),
        pytest.param(units(4), nn.Sequential(nn.Flatten(), nn.Linear(288, 4)), id="less deep"),
        pytest.param(
            units(8),
            nn.Sequential(nn.Flatten(), nn.Linear(288, 4), nn.ReLU(), nn.Linear(4, 4)),
            id="other activation",
        ),
        pytest.param(
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(400, 4)),
            nn.Sequential(nn.Conv2d(2, 2, 3, dilation=2), nn.Flatten(), nn.Linear(128, 4)),
            id="another side before the flatten",
        ),
        pytest.param(
            nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(400, 4)),
            nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(200, 4)),
            id="groups",
        ),
        pytest.param(
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.Linear(10, 4), nn.Flatten(), nn.Linear(160, 4)),
            nn.Sequential(nn.Conv2d(2, 2, 3), nn.Linear(10, 4), nn.Flatten(), nn.Linear(80, 4)),
            id="linear along a row",
        ),
    ],
)
def test_a_network_that_is_no_narrower_copy_keeps_its_weights(teacher: nn.Module, student: nn.Module) -> None:
    before = {name: value.clone() for name, value in student.state_dict().items()}
    assert not initialise(teacher, student)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(288, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        return self.head(x + self.second(x).relu())


def test_a_teacher_with_branches_is_not_used() -> None:
    assert not initialise(Residual(), units(3))


def test_the_teacher_and_all_modes_do_not_change() -> None:
    teacher, student = of(NETWORKS["convolutions"]()).freeze(), of(half(NETWORKS["convolutions"]()))
    before = teacher.fingerprint()
    student.module[3].eval()  # type: ignore[index, operator]
    modes = [layer.training for layer in student.modules()]
    assert initialise_classifier(teacher, student)
    assert teacher.fingerprint() == before
    assert [layer.training for layer in student.modules()] == modes
    assert all(p.requires_grad for p in student.parameters())


def test_the_same_seed_gives_the_same_student() -> None:
    made = []
    for _ in range(2):
        student = of(half(NETWORKS["written"]()))
        initialise_classifier(of(NETWORKS["written"]()), student)
        made.append(student.fingerprint())
    assert made[0] == made[1]


def test_a_dead_layer_leaves_all_weights_finite() -> None:
    teacher = NETWORKS["written"]()
    with torch.no_grad():
        teacher.second.weight.zero_()  # type: ignore[union-attr, operator]
        teacher.second.bias.fill_(-50.0)  # type: ignore[union-attr, operator]
    student = half(teacher)
    assert initialise(teacher, student)
    assert all(bool(torch.isfinite(value).all()) for value in student.state_dict().values())


class Logged(Progress):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)


ONE_STEP = StudentSpec(distill=DistillConfig(steps=1, batch_size=8, learning_rate=1e-9))


def made(teacher: Classifier, images: TransferSet, folder: Path, **changes: object) -> tuple[Classifier, str]:
    logged = Logged()
    student = build_student(teacher, replace(ONE_STEP, **changes), images, folder, progress=logged)  # type: ignore[arg-type]
    return student, " ".join(logged.lines)


def test_a_student_is_initialised_from_the_teacher_if_the_recipe_sets_it(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    images = small_set.all_images()
    random = replace(ONE_STEP.distill, start="random")
    initialised, log = made(teacher, small_set, tmp_path / "initialised")
    fresh, log_of_fresh = made(teacher, small_set, tmp_path / "fresh", distill=random)
    assert agreement(teacher, initialised, images).percent > agreement(teacher, fresh, images).percent + 20
    assert "is initialised with weights of the teacher" in log
    assert "initial" not in log_of_fresh
    card = load_checkpoint(tmp_path / "initialised")[1]
    assert (card.origin.distill["start"], card.origin.inherited) == ("teacher", True)


def test_a_student_of_another_architecture_starts_at_random_and_this_is_logged(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    random = replace(ONE_STEP.distill, start="random")
    one, log = made(teacher, small_set, tmp_path / "one", student="lenet5_bn")
    other, _ = made(teacher, small_set, tmp_path / "other", student="lenet5_bn", distill=random)
    assert "keeps its own initial weights: it is no narrower copy of the teacher" in log
    assert load_checkpoint(tmp_path / "one")[1].origin.inherited is False
    assert one.fingerprint() == other.fingerprint()


def test_a_narrower_copy_of_a_network_with_branches_is_initialised_from_the_teacher(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    network = fresh_student(describe("resnet8(width=0.25)", shape=(1, 32, 32), classes=10), teacher, seed=0)
    other = Classifier(network.module, spec=teacher.spec).freeze()
    other.architecture = network.architecture
    made_set = build_real_set(
        other,
        Split(small_set.all_images(), predict(other, small_set.all_images())),
        tmp_path / "set",
        count=50,
    )
    _, log = made(other, made_set, tmp_path / "student", student="narrow:0.5")
    assert "is initialised with weights of the teacher (channels by " in log
    assert load_checkpoint(tmp_path / "student")[1].origin.inherited is True


def test_initialise_from_teacher_gives_the_student_of_a_recipe(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    student, _ = made(teacher, small_set, tmp_path / "recipe")
    module = fresh_student(describe_student("half", teacher), teacher, seed=5).module
    initialised = initialise_from_teacher(teacher, module, small_set)
    assert initialised.from_teacher
    logits = Classifier(initialised.student, spec=teacher.spec).freeze()(small_set.all_images())
    assert_close(logits, student(small_set.all_images()), atol=1e-3, rtol=1e-3)


def test_initialisation_without_a_transfer_set_is_refused() -> None:
    with pytest.raises(ZskdError, match=r"--distill.start must be random where a generator"):
        DistillConfig(generator=GeneratorConfig(share=1.0), augment=AugmentConfig())
