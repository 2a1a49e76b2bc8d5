"""Networks by budget: the largest that fits, counted as the network itself is counted."""

import pytest
import torch
from torch import Tensor, nn

from zskd.config.registry import ARCHITECTURES
from zskd.core.errors import ZskdError
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.evaluation.inspection import count_multiply_adds
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe
from zskd.models.families import Member, fallback, largest_member, member_needs, named_student
from zskd.models.kinds import Kind, kind_of

RGB = (3, 32, 32)


def network(name: str, shape: tuple[int, int, int] = RGB) -> Classifier:
    return Classifier(
        build(describe(name, shape=shape, classes=10), run_code=False), spec=InputSpec(shape=shape)
    )


class Attention(nn.Module):
    """One block of a transformer on the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(96, 4, 96, batch_first=True)
        self.last = nn.Linear(96, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.block(images.permute(0, 2, 1, 3).flatten(2)).mean(1))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mlp", "linear"),
        ("lenet5", "small chain"),
        ("vgg8(width=0.1)", "chain"),
        ("resnet8", "residual"),
        ("wrn-10-1", "residual"),
        ("mobilenet(width=0.1)", "depthwise"),
        ("attention", "attention"),
    ],
)
def test_the_kind_is_told_by_what_is_computed(name: str, kind: Kind) -> None:
    module = Attention() if name == "attention" else ARCHITECTURES.load(name)(size=32, channels=3)
    module.train()
    assert kind_of(module, torch.zeros(1, *RGB)) == kind
    assert module.training


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp(widths=(6, 3))", RGB),
        ("lenet5(width=0.3)", RGB),
        ("vgg8(width=0.1)", (1, 20, 24)),
        ("resnet8(width=0.2)", (1, 20, 24)),
    ],
)
def test_members_are_counted_as_the_networks_themselves(name: str, shape: tuple[int, int, int]) -> None:
    made = network(name, shape)
    kind: dict[str, Kind] = {"mlp": "linear", "lenet5": "small chain", "vgg8": "chain", "resnet8": "residual"}
    of_kind = kind[name.partition("(")[0]]
    parameters, multiply_adds = made.parameters_count, count_multiply_adds(made)
    assert largest_member(of_kind, shape, 10, "parameters", parameters) == name
    fitting = network(largest_member(of_kind, shape, 10, "multiply-adds", multiply_adds), shape)
    assert count_multiply_adds(fitting) == multiply_adds


@pytest.mark.parametrize("limit", [3_000, 90_000, 400_000])
def test_the_largest_that_fits_is_chosen(limit: int) -> None:
    name = largest_member("residual", RGB, 10, "parameters", limit)
    assert network(name).parameters_count <= limit
    base, _, width = name.partition("(width=")
    member, steps = Member(base), round(100 * float(width.rstrip(")")))
    assert member.at(steps) == name
    assert member_needs(member, steps + 1, RGB, 10)["parameters"] > limit


def test_deeper_members_begin_where_their_published_width_fits() -> None:
    """Sizes of He et al. (2016): 75,290, 172,506 and 269,722 parameters, shortcuts without weights."""
    chosen = [largest_member("residual", RGB, 10, "parameters", n) for n in (75_290, 172_506, 269_722)]
    assert chosen == ["resnet8", "resnet14", "resnet20"]
    assert largest_member("residual", RGB, 10, "parameters", 75_289).startswith("resnet8(width=0.9")


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_share_of_the_teacher_is_of_its_multiply_adds(share: float) -> None:
    teacher = network("lenet5", (1, 16, 16))
    before = teacher.fingerprint()
    name = fallback(teacher, share)
    assert name.startswith("lenet5(")
    got = count_multiply_adds(network(name, (1, 16, 16))) / count_multiply_adds(teacher)
    assert share - 0.1 < got <= share
    assert describe_student(f"budget:{share}x", teacher).title == name
    assert teacher.fingerprint() == before


def test_small_images_have_a_student_too() -> None:
    teacher = network("lenet5", (1, 16, 16))
    smaller = Classifier(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 10)),
        spec=InputSpec(shape=(1, 8, 8)),
    )
    assert named_student(teacher, "parameters", 2000).startswith("lenet5(")
    assert named_student(smaller, "parameters", 2000).startswith("resnet8(")


@pytest.mark.parametrize("student", ["budget:2k", "budget:20k-macs", "auto", "auto:large", "budget:0.2x"])
def test_a_student_by_size_is_built_and_its_card_names_the_network(student: str) -> None:
    teacher = network("lenet5", (1, 16, 16))
    architecture = describe_student(student, teacher)
    assert architecture == describe_student(student, teacher)
    made = fresh_student(architecture, teacher, seed=0)
    assert made.classes == teacher.classes
    assert made.parameters_count < teacher.parameters_count


def test_a_budget_that_is_too_small_names_the_smallest_student() -> None:
    teacher = network("resnet8")
    smallest = network("resnet8(width=0.05)").parameters_count
    with pytest.raises(
        ZskdError,
        match=f"a budget of 100 parameters is too small: .* is resnet8\\(width=0.05\\) with {smallest}$",
    ):
        describe_student("budget:100-params", teacher)
