"""A rewritten network is the network that it was made of: forwards, backwards and in training."""

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from zskd.config.registry import ARCHITECTURES
from zskd.config.synthesis import SynthesisConfig
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.models.fused_conv import FusedConv
from zskd.models.fusion import fuse_layers
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet

CLASSES = 3
ORDERS = (("relu", "pool"), ("pool", "relu"), ("pool",), ("relu",))


@dataclass(frozen=True)
class Net:
    """One block in front of a head: convolution, perhaps batch-norm, then ReLU and pooling in some order."""

    channels: int = 1
    kernel: int = 5
    padding: int = 0
    norm: bool = False
    order: tuple[str, ...] = ("relu", "pool")
    functional: bool = False
    in_place: bool = False
    bias: bool = True
    side: tuple[int, int] = (12, 10)

    @property
    def is_cheaper_merged(self) -> bool:
        return self.norm or ("pool" in self.order and self.channels <= self.kernel + 1)

    @property
    def features(self) -> int:
        sides = [side + 2 * self.padding - self.kernel + 1 for side in self.side]
        if "pool" in self.order:
            sides = [side // 2 for side in sides]
        return 4 * sides[0] * sides[1]

    def build(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
        """In double precision rounding is far below every difference that matters."""
        made = fresh_weights(
            lambda: Written(self) if self.functional else nn.Sequential(*self.layers()), seed
        )
        for layer in made.modules():
            if isinstance(layer, nn.BatchNorm2d):
                used(layer, seed)
        return made.to(dtype).eval()

    def layers(self) -> list[nn.Module]:
        conv = nn.Conv2d(self.channels, 4, self.kernel, padding=self.padding, bias=self.bias)
        behind = {"relu": nn.ReLU(inplace=self.in_place), "pool": nn.MaxPool2d(2)}
        norm = [nn.BatchNorm2d(4)] if self.norm else []
        return [
            conv,
            *norm,
            *(behind[name] for name in self.order),
            nn.Flatten(),
            nn.Linear(self.features, CLASSES),
        ]

    def images(self, count: int = 3, seed: int = 1) -> Tensor:
        numbers = torch.Generator().manual_seed(seed)
        return torch.rand(count, self.channels, *self.side, generator=numbers, dtype=torch.float64)


class Written(nn.Module):
    """The same block as people write it with functional calls."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        conv, *norm = net.layers()[: 1 + net.norm]
        self.conv, self.norm = conv, norm[0] if norm else None
        self.fc = nn.Linear(net.features, CLASSES)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        for name in self.net.order:
            x = F.max_pool2d(x, 2) if name == "pool" else F.relu(x, inplace=self.net.in_place)
        return self.fc(torch.flatten(x, 1))


def used(norm: nn.BatchNorm2d, seed: int) -> None:
    """Give a batch-norm what training leaves behind: some scales negative, no statistic at its start."""
    numbers = torch.Generator().manual_seed(seed)
    size = norm.num_features
    with torch.no_grad():
        norm.weight.copy_(torch.randn(size, generator=numbers))
        norm.bias.copy_(torch.randn(size, generator=numbers))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(torch.randn(size, generator=numbers))
    norm.running_var.copy_(torch.rand(size, generator=numbers) + 0.1)


def pulled(module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Answers, and the gradients of a loss that weighs each of them differently."""
    leaf = images.clone().requires_grad_(True)
    answers = module(leaf)
    weights = torch.arange(1.0, 1 + answers.numel(), dtype=answers.dtype).view_as(answers).sin()
    own = dict(module.named_parameters())
    gradients = torch.autograd.grad((answers * weights).sum(), [leaf, *own.values()])
    return {"answers": answers.detach(), **dict(zip(["images", *own], gradients, strict=True))}


def pulled_through(quick: nn.Module, module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The same of a rewritten network, by the names of the network that owns the parameters."""

    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = module

        def forward(self, x: Tensor) -> Tensor:
            return quick(x)

    return {name.removeprefix("own."): value for name, value in pulled(Seen(), images).items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], atol=tolerance, rtol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def merged(module: nn.Module, images: Tensor) -> nn.Module:
    """The rewritten network, which must be another one."""
    quick, names = fuse_layers(module, images[:2])
    assert names
    assert quick is not module
    return quick


@pytest.mark.parametrize("in_place", [False, True], ids=["", "in place"])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize(
    ("channels", "kernel", "padding"), list(product((1, 3, 6), (3, 5), (0, 1, 2))), ids=str
)
def test_answers_and_all_gradients_are_those_of_the_network(
    channels: int, kernel: int, padding: int, norm: bool, in_place: bool
) -> None:
    for order in ORDERS:
        net = Net(channels, kernel, padding, norm, order, in_place=in_place)
        module, images = net.build(), net.images()
        quick, names = fuse_layers(module, images[:2])
        assert bool(names) == net.is_cheaper_merged
        assert_same(pulled_through(quick, module, images), pulled(module, images))


@settings(max_examples=150)
@given(
    net=st.builds(
        Net,
        channels=st.integers(1, 7),
        kernel=st.sampled_from([3, 5, 3, 5, 1, 2, 4, 6]),
        padding=st.integers(0, 2),
        norm=st.booleans(),
        order=st.sampled_from(ORDERS),
        functional=st.booleans(),
        in_place=st.booleans(),
        bias=st.booleans(),
        side=st.tuples(*[st.sampled_from([8, 10, 12, 14, 7, 11])] * 2),
    ),
    seed=st.integers(0, 2**20),
)
def test_any_such_block_is_merged_without_a_trace(net: Net, seed: int) -> None:
    module, images = net.build(seed=seed), net.images(seed=seed + 1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    kept = images.clone()
    quick, names = fuse_layers(module, images[:2])
    assert bool(names) == net.is_cheaper_merged
    assert_same(pulled_through(quick, module, images), pulled(module, images))
    assert torch.equal(images, kept)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("functional", [False, True], ids=["modules", "functions"])
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_it_is_merged_however_it_is_written(functional: bool, order: tuple[str, ...]) -> None:
    net = Net(norm=True, order=order, functional=functional, in_place=True)
    quick = merged(net.build(), net.images())
    (conv,) = (layer for layer in quick.modules() if isinstance(layer, FusedConv))
    assert conv.norm is not None
    assert conv.pool == ("pool" in order)


@pytest.mark.parametrize("side", [(12, 12), (11, 12), (12, 11), (11, 11), (7, 9)], ids=str)
@pytest.mark.parametrize("padding", [0, 1])
def test_sides_that_do_not_fit_blocks_are_answered_all_the_same(side: tuple[int, int], padding: int) -> None:
    net = Net(side=side, padding=padding, norm=True)
    module, images = net.build(), net.images()
    assert_same(pulled_through(merged(module, images), module, images), pulled(module, images))


def test_one_network_takes_images_of_other_sizes() -> None:
    layers = [nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)]
    module = fresh_weights(lambda: nn.Sequential(*layers), seed=0).double().eval()
    quick = merged(module, torch.rand(2, 1, 8, 8, dtype=torch.float64))
    for side in ((8, 8), (9, 8), (13, 11), (20, 6)):
        images = torch.rand(2, 1, *side, dtype=torch.float64)
        assert_same(pulled_through(quick, module, images), pulled(module, images))


OTHER_POOLING: dict[str, nn.Module] = {
    "overlapping": nn.MaxPool2d(2, stride=1),
    "wide": nn.MaxPool2d(3, stride=2),
    "3x3": nn.MaxPool2d(3),
    "not square": nn.MaxPool2d((2, 1)),
    "padded": nn.MaxPool2d(2, padding=1),
    "dilated": nn.MaxPool2d(2, dilation=2),
    "ceil_mode": nn.MaxPool2d(2, ceil_mode=True),
    "mean": nn.AvgPool2d(2),
}


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("kind", list(OTHER_POOLING))
def test_other_pooling_is_not_merged(kind: str, norm: bool) -> None:
    layers = [nn.Conv2d(1, 4, 3), *([nn.BatchNorm2d(4)] if norm else []), OTHER_POOLING[kind]]
    module = fresh_weights(lambda: nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3)), 0).double().eval()
    images = Net(side=(9, 11)).images()
    module(images)
    quick, names = fuse_layers(module, images[:2])
    assert bool(names) == norm
    assert not any(layer.pool for layer in quick.modules() if isinstance(layer, FusedConv))
    assert_same(pulled_through(quick, module, images), pulled(module, images))


class WithIndices(nn.Module):
    """Pooling that returns two tensors, by a module or by a function."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 4, 3), nn.MaxPool2d(2, return_indices=True)
        self.fc = nn.Linear(100, CLASSES)
        self.functional = functional

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        pooled = F.max_pool2d(x, 2, return_indices=True) if self.functional else self.pool(x)
        return self.fc(pooled[0].flatten(1))


@pytest.mark.parametrize("functional", [False, True], ids=["module", "function"])
def test_pooling_that_returns_indices_is_not_merged(functional: bool) -> None:
    module = WithIndices(functional).double().eval()
    images = Net(side=(12, 12)).images()
    assert fuse_layers(module, images[:2]) == (module, ())


class Branching(nn.Module):
    """A convolution whose answer is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(100, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.fc((F.max_pool2d(x, 2) + F.avg_pool2d(x, 2)).flatten(1))


class Shared(nn.Module):
    """One convolution at two places, pooled at one of them only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(50, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, -x], 1)
        return self.fc(F.max_pool2d(self.conv(self.conv(x).tanh()), 2).flatten(1))


def test_a_convolution_read_twice_is_left_alone() -> None:
    module, images = Branching().double().eval(), Net(side=(10, 10)).images()
    assert fuse_layers(module, images[:2]) == (module, ())


def test_a_convolution_used_twice_is_merged_where_it_is_pooled() -> None:
    module, images = Shared().double().eval(), Net(side=(10, 10)).images()
    quick = merged(module, images)
    assert sum(isinstance(layer, FusedConv) for layer in quick.modules()) == 1
    assert_same(pulled_through(quick, module, images), pulled(module, images))


CONVOLUTIONS: dict[str, nn.Conv2d] = {
    "strided": nn.Conv2d(2, 4, 3, stride=2, padding=1),
    "dilated": nn.Conv2d(2, 4, 3, dilation=2),
    "grouped": nn.Conv2d(2, 4, 3, groups=2),
    "not square": nn.Conv2d(2, 4, (3, 5), padding=(1, 2)),
    "same": nn.Conv2d(2, 4, 3, padding="same"),
    "circular": nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
    "reflected": nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
}


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("kind", list(CONVOLUTIONS))
def test_unusual_convolutions_give_the_same(kind: str, norm: bool) -> None:
    layers = [CONVOLUTIONS[kind], *([nn.BatchNorm2d(4)] if norm else []), nn.MaxPool2d(2), nn.ReLU()]
    module = fresh_weights(lambda: nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3)), 0).double().eval()
    images = Net(channels=2, side=(12, 10)).images()
    module(images)
    if norm:
        used(module[1], 0)
    quick, _ = fuse_layers(module, images[:2])
    assert_same(pulled_through(quick, module, images), pulled(module, images))


@pytest.mark.parametrize("made_with", [{"affine": False}, {"track_running_stats": False}, {"momentum": None}])
def test_batch_norm_without_scales_or_statistics_is_answered_alike(made_with: dict[str, object]) -> None:
    module = fresh_weights(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4, **made_with),  # type: ignore[arg-type]
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(100, 3),
        ),
        seed=0,
    )
    module = module.double().eval()
    images = Net(side=(12, 12)).images()
    assert_same(pulled_through(merged(module, images), module, images), pulled(module, images))


@pytest.mark.parametrize("order", ORDERS[:3], ids="-".join)
@pytest.mark.parametrize("channels", [1, 3])
def test_ties_of_exact_numbers_are_broken_alike(order: tuple[str, ...], channels: int) -> None:
    """Flat images and whole-number weights: nothing is rounded, and each window holds four equal values."""
    net = Net(channels=channels, order=order, kernel=3)
    for value in (-2.0, 0.0, 1.0):
        module = net.build()
        with torch.no_grad():
            for i, parameter in enumerate(module.parameters()):
                numbers = torch.Generator().manual_seed(i)
                whole = torch.randint(-3, 4, parameter.shape, generator=numbers)
                parameter.copy_(whole)
        images = torch.full_like(net.images(), value)
        assert_same(pulled_through(merged(module, images), module, images), pulled(module, images))


def test_ties_by_rounding_alone_move_a_gradient_inside_its_window_only() -> None:
    net = Net(channels=3, kernel=3, order=("pool",))
    module, images = net.build(), torch.full_like(net.images(), 0.3)
    wanted = pulled(module, images)
    got = pulled_through(merged(module, images), module, images)
    for found in (wanted, got):
        found["images"] = found["images"].sum((2, 3))
    assert_same(got, wanted)


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("in_place", [False, True])
def test_training_moves_batch_norm_exactly_as_it_would_the_original(
    order: tuple[str, ...], in_place: bool
) -> None:
    net = Net(channels=3, norm=True, order=order, in_place=in_place)
    plain = net.build(torch.float32)
    owner = copy.deepcopy(plain)
    quick = merged(owner, net.images().float())
    for module in (plain, owner):
        module.train()
    descents = [torch.optim.SGD(module.parameters(), lr=0.1) for module in (plain, owner)]
    for step in range(3):
        images = net.images(seed=step).float()
        for run, descent in zip((plain, quick), descents, strict=True):
            descent.zero_grad()
            F.cross_entropy(run(images), torch.arange(3)).backward()
            descent.step()
    assert owner[1].num_batches_tracked == 3
    for name, value in owner.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    plain.eval()
    owner.eval()
    torch.testing.assert_close(quick(images), plain(images), atol=1e-5, rtol=1e-5)


def test_a_batch_norm_may_be_trained_and_frozen_in_turn() -> None:
    net = Net(norm=True)
    module, images = net.build(), net.images()
    quick = merged(module, images)
    for training in (True, False, True, False):
        module.train(training)
        expected = copy.deepcopy(module)
        assert_same(pulled_through(quick, module, images), pulled(expected, images))
        assert torch.equal(module[1].running_var, expected[1].running_var)


class DependsOnTraining(Written):
    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv(x), 2)
        return self.fc((F.relu(x) if self.training else x.tanh()).flatten(1))


class DropsOut(Written):
    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.max_pool2d(self.conv(x), 2), 0.5, self.training)
        return self.fc(x.flatten(1))


class LooksAtValues(Written):
    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv(x), 2)
        return self.fc((x if x.sum() > 0 else -x).flatten(1))


@pytest.mark.parametrize("kind", [DependsOnTraining, DropsOut, LooksAtValues])
@pytest.mark.parametrize("training", [False, True])
def test_what_cannot_be_seen_through_is_left_alone(kind: type[Written], training: bool) -> None:
    net = Net()
    module = kind(net).double().train(training)
    assert fuse_layers(module, net.images()) == (module, ())
    assert all(layer.training == training for layer in module.modules())
    classifier = Classifier(module.float(), spec=InputSpec(shape=(1, *net.side)), copy=False)
    assert classifier.merged == ()
    images = net.images().float()
    torch.manual_seed(0)
    answers = classifier(images)
    torch.manual_seed(0)
    assert torch.equal(answers, module(classifier.normalise(images)))


@pytest.mark.parametrize("layer", [0, 1], ids=["convolution", "batch-norm"])
def test_hooks_of_a_merged_layer_fire_whenever_they_were_hung_up(layer: int) -> None:
    net = Net(norm=True)
    module, images = net.build(), net.images()
    quick = merged(module, images)
    plain = quick(images)
    seen: list[tuple[Tensor, Tensor]] = []
    handle = module[layer].register_forward_hook(
        lambda _layer, inputs, output: seen.append((inputs[0].clone(), output.clone()))
    )
    torch.testing.assert_close(quick(images), plain)
    (pair,) = seen
    torch.testing.assert_close(pair[0], module[:layer](images))
    torch.testing.assert_close(pair[1], module[: layer + 1](images))
    handle.remove()
    before = module[layer].register_forward_pre_hook(lambda _layer, inputs: (2 * inputs[0],))
    doubled = module(images)
    assert not torch.allclose(doubled, plain)
    torch.testing.assert_close(quick(images), doubled)
    before.remove()
    seen.clear()
    assert torch.equal(quick(images), plain)
    assert not seen


WEIGHTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": nn.utils.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "parametrised": nn.utils.parametrizations.weight_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("kind", list(WEIGHTS))
def test_weights_that_are_computed_at_every_step_are_trained_all_the_same(kind: str) -> None:
    net = Net(kernel=3)
    plain, owner = net.build().train(), net.build().train()
    for module in (plain, owner):
        torch.manual_seed(0)
        WEIGHTS[kind](module[0])
    quick, _ = fuse_layers(owner, net.images()[:2])
    descents = [torch.optim.SGD(module.parameters(), lr=0.5) for module in (plain, owner)]
    for step in range(3):
        images = net.images(seed=step)
        for run, descent in zip((plain, quick), descents, strict=True):
            descent.zero_grad()
            F.cross_entropy(run(images), torch.arange(3)).backward()
            descent.step()
    for (name, value), own in zip(plain.named_parameters(), owner.parameters(), strict=True):
        torch.testing.assert_close(own, value, msg=name)


class Masked(nn.Module):
    """A tensor of the network's own that no layer owns."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*Net(kernel=3).layers())
        self.register_buffer("mask", torch.ones(1, 1, *Net().side))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.mask * x)


def test_tensors_that_no_layer_owns_go_to_another_device_as_well() -> None:
    """A graph would keep its own copy of them: such a network is left alone."""
    classifier = Classifier(Masked(), spec=InputSpec(shape=(1, *Net().side)))
    assert classifier.merged == ()
    classifier.to("meta")
    assert classifier(torch.empty(2, 1, *Net().side, device="meta")).shape == (2, CLASSES)


def test_no_image_at_all_has_no_answer() -> None:
    net = Net()
    module, images = net.build(), net.images()
    assert merged(module, images)(images[:0]).shape == module(images[:0]).shape == (0, CLASSES)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """LeNet-5 with a batch-norm that training has left its mark on."""
    module = fresh_weights(ARCHITECTURES.load("lenet5_bn"), seed=0)
    for i, layer in enumerate(module.modules()):
        if isinstance(layer, nn.BatchNorm2d):
            used(layer, i)
    return Classifier(module, spec=InputSpec(mean=(0.4,), std=(0.3,))).freeze()


PICTURES = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name.startswith("lenet")])
def test_the_built_in_networks_are_rewritten(name: str) -> None:
    classifier = Classifier(fresh_weights(ARCHITECTURES.load(name), seed=0)).freeze()
    assert classifier.merged == ("conv0", "conv1")
    assert classifier.how_run()["merged"] == ("conv0", "conv1")
    answers, features = classifier(PICTURES), classifier.features(PICTURES)
    classifier.rewrite = False
    assert classifier.how_run()["merged"] == ()
    torch.testing.assert_close(answers, classifier(PICTURES), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features, classifier.features(PICTURES), atol=1e-5, rtol=1e-5)


def test_nothing_is_registered_twice(classifier: Classifier) -> None:
    module = fresh_weights(ARCHITECTURES.load("lenet5_bn"), seed=0)
    parameters, names = list(module.parameters()), set(module.state_dict())
    modules = len(list(module.modules()))
    wrapped = Classifier(module, copy=False)
    assert wrapped.merged
    assert [id(p) for p in wrapped.parameters()] == [id(p) for p in parameters]
    assert set(wrapped.state_dict()) == {f"module.{name}" for name in names}
    assert set(module.state_dict()) == names
    assert len(list(wrapped.modules())) == 1 + modules
    assert wrapped.parameters_count == sum(p.numel() for p in parameters)


def test_the_rewritten_network_follows_every_change_of_the_weights() -> None:
    classifier = Classifier(fresh_weights(ARCHITECTURES.load("lenet5_bn"), seed=0)).freeze()
    other = fresh_weights(ARCHITECTURES.load("lenet5_bn"), seed=1).eval()
    classifier.module.load_state_dict(other.state_dict())
    torch.testing.assert_close(classifier(PICTURES), other(PICTURES), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for parameter in (*classifier.module.parameters(), *other.parameters()):
            parameter.mul_(1.5)
    torch.testing.assert_close(classifier(PICTURES), other(PICTURES), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rewrite", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_copies_answer_alike_and_share_nothing(classifier: Classifier, rewrite: bool, training: bool) -> None:
    classifier = copy.deepcopy(classifier)
    classifier.rewrite = rewrite
    classifier.train(training)
    for layer in classifier.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.0  # it is asked twice
    twins = [copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))]
    buffer = io.BytesIO()
    torch.save(classifier, buffer)
    buffer.seek(0)
    twins.append(torch.load(buffer, weights_only=False))
    answers = classifier(PICTURES)
    print_of = classifier.fingerprint()
    for twin in twins:
        assert isinstance(twin, Classifier)
        assert (twin.rewrite, twin.training, twin.module.training) == (rewrite, training, training)
        assert (twin.merged, twin.layout, twin.spec) == (
            classifier.merged,
            classifier.layout,
            classifier.spec,
        )
        assert not any(p.requires_grad for p in twin.parameters())
        assert torch.equal(twin(PICTURES), answers)
        for own, its in zip(classifier.parameters(), twin.parameters(), strict=True):
            assert own.data_ptr() != its.data_ptr()
        with torch.no_grad():
            next(twin.parameters()).zero_()
        assert not torch.equal(twin(PICTURES), answers)
        assert classifier.fingerprint() == print_of


def test_a_manifest_tells_what_was_merged(classifier: Classifier, tmp_path: Path) -> None:
    spec = SetSpec(count=8, synthesis=SynthesisConfig(steps=1, batch_size=4, shard_size=8))
    plain = copy.deepcopy(classifier)
    plain.rewrite = False

    def made(teacher: Classifier, name: str) -> TransferSet:
        return build_transfer_set(teacher, spec, tmp_path / name)

    quick, slow = made(classifier, "quick"), made(plain, "slow")
    assert quick.manifest.resolved.merged == ("conv0", "conv1")
    assert slow.manifest.resolved.merged == ()
    assert quick.manifest.teacher_sha256 == slow.manifest.teacher_sha256
    # Adam's first step has one length wherever the gradient is not nought: where it is nought but for
    # rounding, rounding decides the sign, of one pixel in a hundred here
    apart = (quick.all_images() - slow.all_images()).abs()
    assert float(apart.mean()) < 5e-3
    assert float((apart > 1e-3).float().mean()) < 0.05
