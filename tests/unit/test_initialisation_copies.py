"""Initialisation of narrower and less deep copies of networks with branches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from zskd.distillation.batch_norm import take_statistics
from zskd.distillation.initialisation.elimination import divergence
from zskd.distillation.initialisation.graph import initialise_copy
from zskd.distillation.initialisation.graph_effort import Costs, plan_copy
from zskd.distillation.initialisation.importance import RULES, Importance, order_by_covariance
from zskd.distillation.initialisation.repair import Place, find_places, repair
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.narrow.matching import match_copy
from zskd.models.narrow.skip import Skip

SPEC = InputSpec(shape=(2, 8, 8), mean=(0.4,), std=(0.3,))


class Block(nn.Module):
    """A residual block with squeeze and excitation."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, inner, 3, padding=1), nn.BatchNorm2d(inner)
        self.squeeze, self.second = nn.Conv2d(inner, inner, 1), nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.first(x)), inplace=True)
        y = y * torch.sigmoid(self.squeeze(y.mean((2, 3), keepdim=True)))
        return x + self.second(y)


class Residual(nn.Module):
    def __init__(self, width: int = 8, inner: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Block(width, inner), Block(width, inner))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Depthwise(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, width, 3, stride=2, padding=1), nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.point, self.head = nn.Conv2d(width, width, 1), nn.Linear(2 * width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        y = F.relu(self.point(self.depthwise(x)))
        return self.head(torch.cat([x, y], 1).mean((2, 3)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        images, tokens = x.shape[:2]
        parts = self.qkv(x).reshape(images, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*parts)
        return self.proj(y.transpose(1, 2).reshape(images, tokens, -1))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    def __init__(self, width: int = 12, inner: int = 12, heads: int = 4, hidden: int = 16) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(2, width, 4, stride=4), nn.LayerNorm(width)
        self.attention = Attention(width, inner, heads)
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.attention(self.norm(x))
        x = x + self.second(F.gelu(self.first(x)))
        return self.head(x.mean(1))  # type: ignore[no-any-return]


PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "inside blocks": (Residual, lambda: Residual(inner=4)),
    "everywhere": (Residual, lambda: Residual(width=6, inner=4)),
    "depthwise and concatenation": (Depthwise, lambda: Depthwise(4)),
    "heads": (Transformer, lambda: Transformer(inner=6, heads=2, hidden=8)),
    "widths of heads": (Transformer, lambda: Transformer(width=8, inner=8, heads=4, hidden=8)),
}


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for values in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                    assert values is not None
                    nn.init.uniform_(values, 0.5, 1.5)
    for value in module.parameters():
        value.data.mul_(1.5)
    return module


def frozen(module: nn.Module) -> Classifier:
    return Classifier(module, spec=SPEC).freeze()


def some_images(count: int = 120, seed: int = 0) -> Tensor:
    return torch.rand(count, *SPEC.shape, generator=Generator().manual_seed(seed))


def initialise(teacher: Classifier, student: Classifier, seed: int = 1) -> str | None:
    rng = Generator().manual_seed(seed)
    return initialise_copy(teacher, student, lambda: torch.rand(120, *SPEC.shape, generator=rng), rng)


def distance(student: Classifier, teacher: Classifier) -> float:
    images = some_images(100, seed=9)
    student.rewrite = teacher.rewrite = False
    training = student.training
    with torch.no_grad():
        value = divergence(student.eval()(images), teacher(images))
    student.train(training)
    return value


@pytest.mark.parametrize("name", PAIRS)
def test_an_initialised_copy_is_far_nearer_to_the_teacher_than_a_random_one(name: str) -> None:
    of_teacher, of_student = PAIRS[name]
    teacher, student = frozen(seeded(of_teacher)), Classifier(seeded(of_student, 1), spec=SPEC)
    before = distance(student, teacher)
    assert (initialise(teacher, student) or "").endswith("layers fitted")
    assert distance(student, teacher) < 0.2 * before


@pytest.mark.parametrize("of_network", [Residual, Depthwise, Transformer])
def test_a_copy_as_wide_as_the_teacher_becomes_the_teacher(of_network: Callable[[], nn.Module]) -> None:
    teacher, student = frozen(seeded(of_network)), Classifier(seeded(of_network, 1), spec=SPEC)
    assert initialise(teacher, student) == "copied"
    assert student.fingerprint() == teacher.fingerprint()


@pytest.mark.parametrize("name", ["inside blocks", "depthwise and concatenation", "heads"])
def test_channels_without_effect_go_and_the_logits_stay(name: str) -> None:
    of_teacher, of_student = PAIRS[name]
    module = seeded(of_teacher)
    image = some_images(1)
    match = match_copy(module, of_student(), image)
    assert match is not None
    for share in match.shares:  # all that a chosen channel does for other layers
        gone = ~share.choose(torch.rand(share.group.size, generator=Generator().manual_seed(5)))
        for one in share.group.members:
            if one.side == "in":
                layer = module.get_submodule(one.name)
                layer.weight.data[:, one.indices[gone[one.roots]]] = 0  # type: ignore[union-attr, index]
    teacher, student = frozen(module), Classifier(of_student(), spec=SPEC)
    for rule in RULES[:2]:  # the third reads the weights that make a channel
        importance = Importance(teacher, match, some_images().split(40), Generator())
        student.module.load_state_dict(match.cut(importance.of_groups(rule)).network.state_dict())
        assert distance(student, teacher) < 1e-7, rule


def test_the_same_seed_gives_the_same_bytes_and_nothing_else_changes() -> None:
    made = []
    for _ in range(2):
        teacher, student = frozen(seeded(Residual)), Classifier(seeded(lambda: Residual(inner=4)), spec=SPEC)
        before = teacher.fingerprint()
        student.module.blocks[0].eval()  # type: ignore[union-attr, index, operator]
        modes = [layer.training for layer in student.modules()]
        initialise(teacher, student)
        assert teacher.fingerprint() == before
        assert [layer.training for layer in student.modules()] == modes
        assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in teacher.modules())
        made.append(student.fingerprint())
    assert made[0] == made[1]


def test_a_copy_without_a_block_keeps_the_others_and_is_fitted() -> None:
    module = seeded(Residual)
    copied = copy.deepcopy(module)
    copied.blocks[1] = Skip()  # type: ignore[union-attr, operator, index]
    teacher, student = frozen(module), Classifier(copied, spec=SPEC)
    before = distance(student, teacher)
    for value in copied.parameters():
        value.data.normal_()
    assert initialise(teacher, student) == "layers fitted"
    assert distance(student, teacher) < before


@pytest.mark.parametrize(
    "other",
    [
        lambda: Residual(width=9),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(128, 4)),
        Depthwise,
    ],
)
def test_other_networks_keep_their_weights(other: Callable[[], nn.Module]) -> None:
    student = Classifier(seeded(other), spec=SPEC)
    before = student.fingerprint()
    assert initialise(frozen(seeded(Residual)), student) is None
    assert student.fingerprint() == before


def outputs_of(network: Classifier, name: str, images: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = network.module.get_submodule(name).register_forward_hook(lambda _, __, y: seen.append(y.clone()))
    network(images)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("name", ["everywhere", "depthwise and concatenation", "heads"])
def test_no_fit_makes_the_error_of_its_layer_larger(name: str) -> None:
    of_teacher, of_student = PAIRS[name]
    teacher, student = frozen(seeded(of_teacher)), frozen(seeded(of_student, 1))
    teacher.rewrite = student.rewrite = False
    images = some_images(60)[:, :, :6, :6] if name != "heads" else some_images(60)  # at most 15 positions
    image, spec = images[:1], replace(SPEC, shape=tuple(images.shape[1:]))
    teacher.spec = student.spec = spec
    match = match_copy(teacher.module, student.module, image)
    assert match is not None
    cut = match.cut({one.group.name: torch.ones(one.group.size) for one in match.shares})
    student.module.load_state_dict(cut.network.state_dict())
    places = find_places(teacher, student, image)
    assert len(places) >= 4
    for place in places:
        assert place.positions <= 15
        dim = 1 if isinstance(student.module.get_submodule(place.name), nn.Conv2d) else -1
        wanted = outputs_of(teacher, place.name, images).index_select(dim, cut.outputs[place.name])
        before = (outputs_of(student, place.name, images) - wanted).square().sum()
        with torch.no_grad():
            repair(teacher, student, [[place]], cut.outputs, images.split(20), Generator())
        after = (outputs_of(student, place.name, images) - wanted).square().sum()
        assert after <= before * (1 + 1e-5) + 1e-6


def test_the_layers_of_one_sweep_are_fitted_on_the_same_passes() -> None:
    teacher, student = frozen(seeded(Residual)), frozen(seeded(Residual, 1))
    every = {
        name: torch.arange(len(layer.weight))
        for name, layer in teacher.module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    places = find_places(teacher, student, some_images(1))
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    student.module.stem.register_forward_hook(count)  # type: ignore[union-attr, operator]
    with torch.no_grad():
        repair(teacher, student, [places[:3], places[3:]], every, some_images(60).split(20), Generator())
    assert passes == 2 * 3


def test_statistics_are_those_of_all_inputs() -> None:
    network = frozen(seeded(Depthwise))
    images = some_images(70)
    inputs = outputs_of(network, "stem", images)
    before = copy.deepcopy(network.module.norm)
    with torch.no_grad():
        take_statistics(network, images.split(30))
    norm = network.module.norm
    assert_close(norm.running_mean, inputs.mean((0, 2, 3)))  # type: ignore[union-attr]
    assert_close(norm.running_var, inputs.var((0, 2, 3), correction=0))  # type: ignore[union-attr]
    assert (norm.momentum, norm.training) == (before.momentum, False)  # type: ignore[union-attr]
    assert torch.equal(norm.num_batches_tracked, before.num_batches_tracked)  # type: ignore[union-attr, arg-type]


def test_channels_by_covariance_are_those_that_explain_most() -> None:
    rng = Generator().manual_seed(0)
    values = torch.randn(200, 6, generator=rng).double() @ torch.randn(6, 6, generator=rng).double()
    values -= values.mean(0)
    weight = torch.randn(6, 3, generator=rng).double()
    outputs = values @ weight
    chosen: list[int] = []
    for _ in range(3):  # one after the other, each time all are tried by regression

        def unexplained(one: int) -> float:
            inputs = values[:, [*chosen, one]]
            fitted = inputs @ torch.linalg.lstsq(inputs, outputs).solution
            return float((outputs - fitted).square().sum())

        chosen.append(min((one for one in range(6) if one not in chosen), key=unexplained))
    order = order_by_covariance([values.T @ values / 200], [weight], 3)
    assert order.argsort(descending=True)[:3].tolist() == chosen


def test_the_work_is_bounded_by_count() -> None:
    places = [Place(f"layer {i}", 64, 577, 64, 1) for i in range(50)]
    costs = Costs(teacher=10**9, student=3 * 10**8)
    free = plan_copy(places, costs, 2000, 10**9, chooses=True)
    assert (len(free.rules), free.images, len(free.sweeps)) == (3, 2000, 50)
    tight = plan_copy(places, costs, 2000, 10**5, chooses=True)
    assert tight.total <= 0.1 * 10**5 * (10**9 + 3 * 3 * 10**8) < free.total
    assert [place for sweep in tight.sweeps for place in sweep] == places


def test_the_count_is_what_is_computed() -> None:
    teacher, student = frozen(seeded(Residual)), Classifier(Residual(inner=4), spec=SPEC)

    with FlopCounterMode(display=False) as counter:
        initialise(teacher, student)
    with torch.no_grad():
        places = find_places(teacher, student.eval(), some_images(1))
    costs = Costs(*(sum_of(one) for one in (teacher, student)))
    plan = plan_copy(places, costs, 120, 0, chooses=True)
    assert 0.2 * plan.total < counter.get_total_flops() / 2 < 1.1 * plan.total


def sum_of(network: Classifier) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.module(some_images(1))
    return counter.get_total_flops() // 2
