"""What a narrower student takes over from its teacher, before it learns anything."""

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
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.distillation.initialisation.from_teacher import initialise_from_teacher, take_over_weights
from zskd.distillation.spec import StudentSpec
from zskd.distillation.students import build_student
from zskd.evaluation.metrics import agreement
from zskd.models.checkpoint import load_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import half
from zskd.transfer_set.dataset import TransferSet

SPEC = InputSpec(shape=(2, 12, 12), mean=(0.4,), std=(0.3,))


class Written(nn.Module):
    """A chain as people write it: functional calls, and a view."""

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


def given(teacher: Classifier, student: Classifier) -> bool:
    numbers = Generator().manual_seed(1)
    return take_over_weights(
        teacher, student, lambda: torch.rand(300, *SPEC.shape, generator=numbers), numbers
    )


def take_over(teacher: nn.Module, student: nn.Module) -> bool:
    return given(of(teacher), of(student))


def difference(one: nn.Module, other: nn.Module) -> float:
    """Of the logits of other images than the layers were fitted on, in parts of their spread."""
    fresh = torch.rand(100, *SPEC.shape, generator=Generator().manual_seed(3))
    with torch.no_grad():
        said, wanted = (of(module).freeze()(fresh) for module in (one, other))
    return float((said - wanted).square().mean().sqrt() / (wanted - wanted.mean(0)).std())


def weighted(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("name", NETWORKS)
def test_what_nobody_hears_is_left_out_and_nothing_changes(name: str) -> None:
    teacher = NETWORKS[name]()
    student = half(teacher)
    narrower = list(zip(weighted(teacher), weighted(student), strict=True))
    for (its, mine), following in zip(narrower, weighted(teacher)[1:], strict=False):
        width, deaf = len(its.weight), len(its.weight) - len(mine.weight)  # type: ignore[arg-type]
        chosen = torch.randperm(width, generator=Generator().manual_seed(4))[:deaf]
        by_channel = following.weight.detach().view(len(following.weight), width, -1)  # type: ignore
        by_channel[:, chosen] = 0
    assert difference(student, teacher) > 0.3
    assert take_over(teacher, student)
    assert difference(student, teacher) < 1e-3


@pytest.mark.parametrize("width", [10, 40])
def test_twice_the_same_channel_becomes_one(width: int) -> None:
    """A copy alone would say a part of it: channels are chosen, and layers fitted, for all."""
    teacher = seeded(units, width)
    first = weighted(teacher)[0]
    with torch.no_grad():
        for values in (first.weight, first.bias):
            values[width // 2 :] = values[: width // 2]  # type: ignore[index]
    student = half(teacher)
    assert take_over(teacher, student)
    assert difference(student, teacher) < 0.02


def test_channels_are_kept_for_what_the_answers_owe_them_and_not_for_how_loud_they_are() -> None:
    """Half of the channels are loud, and what the next layer makes of them is below its ReLU."""
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
    assert take_over(teacher, student)
    assert difference(student, teacher) < 0.02


@pytest.mark.parametrize("name", NETWORKS)
def test_it_says_more_of_what_the_teacher_says_than_a_random_student(name: str) -> None:
    teacher = NETWORKS[name]()
    student = half(teacher)
    assert take_over(teacher, student)
    assert difference(student, teacher) < 0.8
    assert difference(half(teacher), teacher) > 1.0


def test_one_as_wide_becomes_the_teacher() -> None:
    teacher, student = NETWORKS["convolutions"](), convolutions(8)
    assert take_over(teacher, student)
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
            id="another side behind the flatten",
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
def test_another_network_keeps_its_weights(teacher: nn.Module, student: nn.Module) -> None:
    before = {name: value.clone() for name, value in student.state_dict().items()}
    assert not take_over(teacher, student)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(288, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        return self.head(x + self.second(x).relu())


def test_a_network_with_branches_gives_nothing() -> None:
    assert not take_over(Residual(), units(3))


def test_the_teacher_and_every_mode_stay_as_they_are() -> None:
    teacher, student = of(NETWORKS["convolutions"]()).freeze(), of(half(NETWORKS["convolutions"]()))
    before = teacher.fingerprint()
    student.module[3].eval()  # type: ignore[index, operator]
    modes = [layer.training for layer in student.modules()]
    assert given(teacher, student)
    assert teacher.fingerprint() == before
    assert [layer.training for layer in student.modules()] == modes
    assert all(p.requires_grad for p in student.parameters())


def test_the_same_numbers_give_the_same_student() -> None:
    made = []
    for _ in range(2):
        student = of(half(NETWORKS["written"]()))
        given(of(NETWORKS["written"]()), student)
        made.append(student.fingerprint())
    assert made[0] == made[1]


def test_a_dead_layer_does_no_harm() -> None:
    teacher = NETWORKS["written"]()
    with torch.no_grad():
        teacher.second.weight.zero_()  # type: ignore[union-attr, operator]
        teacher.second.bias.fill_(-50.0)  # type: ignore[union-attr, operator]
    student = half(teacher)
    assert take_over(teacher, student)
    assert all(bool(torch.isfinite(value).all()) for value in student.state_dict().values())


class Heard(Progress):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)


ONE_STEP = StudentSpec(distill=DistillConfig(steps=1, batch_size=8, learning_rate=1e-9))


def made(teacher: Classifier, images: TransferSet, folder: Path, **changes: object) -> tuple[Classifier, str]:
    heard = Heard()
    student = build_student(teacher, replace(ONE_STEP, **changes), images, folder, progress=heard)  # type: ignore[arg-type]
    return student, " ".join(heard.lines)


def test_a_student_begins_with_it_if_the_recipe_says_so(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    images = small_set.all_images()
    random = replace(ONE_STEP.distill, start="random")
    inherited, said = made(teacher, small_set, tmp_path / "inherited")
    fresh, silent = made(teacher, small_set, tmp_path / "fresh", distill=random)
    assert agreement(teacher, inherited, images).percent > agreement(teacher, fresh, images).percent + 20
    assert "begins with what it can take over" in said
    assert "begins" not in silent
    card = load_checkpoint(tmp_path / "inherited")[1]
    assert (card.origin.distill["start"], card.origin.inherited) == ("teacher", True)


def test_a_student_of_another_kind_begins_at_random_and_it_is_said(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    random = replace(ONE_STEP.distill, start="random")
    one, said = made(teacher, small_set, tmp_path / "one", student="lenet5_bn")
    other, _ = made(teacher, small_set, tmp_path / "other", student="lenet5_bn", distill=random)
    assert "weights of its own, being no narrower copy" in said
    assert load_checkpoint(tmp_path / "one")[1].origin.inherited is False
    assert one.fingerprint() == other.fingerprint()


def test_by_hand_it_begins_as_by_a_recipe(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    student, _ = made(teacher, small_set, tmp_path / "recipe")
    module = fresh_student(describe_student("half", teacher), teacher, seed=5).module
    begun = initialise_from_teacher(teacher, module, small_set)
    assert begun.taken_over
    said = Classifier(begun.student, spec=teacher.spec).freeze()(small_set.all_images())
    assert_close(said, student(small_set.all_images()), atol=1e-3, rtol=1e-3)


def test_without_a_set_there_is_nothing_to_fit_on() -> None:
    with pytest.raises(ZskdError, match=r"--distill.start must be random where a generator"):
        DistillConfig(generator=GeneratorConfig(share=1.0), augment=AugmentConfig())
