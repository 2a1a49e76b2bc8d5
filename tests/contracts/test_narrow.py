"""Narrower copies of networks of every kind: they compute what the network does without some channels."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from small_networks import IMAGES, OWN, SHAPE, Ending, Reversed, basic, conv, shapes
from zskd.config.sizes import ShareKind
from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.counting import count_multiply_adds
from zskd.models.factory import build, describe, fresh_weights
from zskd.models.narrow.copies import narrow, probes
from zskd.models.narrow.cut import Cut, Scope, channels_kept, cut_channels
from zskd.models.narrow.matching import match_copy
from zskd.models.narrow.plan import CannotCut, plan_cut, with_random_weights
from zskd.models.narrow.search import narrow_network


def own(name: str) -> nn.Module:
    """A network in evaluation mode, whose batch-norm statistics are those of some images."""
    return with_random_weights(fresh_weights(OWN[name], 0), IMAGES).eval()


@pytest.mark.parametrize("name", OWN)
def test_a_copy_of_full_width_is_the_same(name: str) -> None:
    network = own(name)
    assert torch.equal(narrow(network, 1.0, "width", shape=SHAPE)(IMAGES), network(IMAGES))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("residual", "all channels"),
        ("norm first", "all channels"),
        ("padded shortcut", "channels inside blocks"),
        ("depthwise, gated", "all channels"),
        ("grouped", "all channels"),
        ("concatenation", "all channels"),
        ("shuffled", "channels inside blocks"),
        ("group norm", "all channels"),
        ("flattened", "all channels"),
        ("attention", "all channels"),
        ("unusual", "channels inside blocks"),
    ],
)
def test_a_copy_computes_what_is_left_of_the_network(name: str, how: str) -> None:
    """Independent truth: in the whole network, the weights of cut input channels are set to zero."""
    network = own(name)
    found = narrow_network(network, IMAGES, 0.6, "width")
    assert found.how == how
    sizes = [sum(one.numel() for one in net.parameters()) for net in (found.network, network)]
    assert sizes[0] < 0.95 * sizes[1]
    masked = mask_inputs(network, found)
    if name not in ("attention", "group norm"):  # their norms also see the channels that are cut
        assert torch.allclose(found.network(IMAGES), masked(IMAGES), atol=1e-4)


def mask_inputs(network: nn.Module, cut: Cut) -> nn.Module:
    """Return the network with the cut channels of each layer's input set to zero as it receives them."""
    masked = narrow(network, 1.0, "width", shape=SHAPE)
    for name, kept in cut.inputs.items():
        layer = masked.get_submodule(name)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            width = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features
            mask = torch.zeros(width)
            mask[kept] = 1
            mask = mask.view(1, -1, 1, 1) if isinstance(layer, nn.Conv2d) else mask
            layer.register_forward_pre_hook(lambda _, given, mask=mask: (given[0] * mask,))
    return masked


@pytest.mark.parametrize("name", ["residual", "norm first", "depthwise, gated", "concatenation", "flattened"])
def test_the_weights_of_a_copy_are_those_of_the_kept_channels(name: str) -> None:
    network = own(name)
    found = narrow_network(network, IMAGES, 0.6, "width")
    layers = dict(network.named_modules())
    for layer, inputs in found.inputs.items():
        before, after = layers[layer], found.network.get_submodule(layer)
        grouped = isinstance(before, nn.Conv2d) and before.groups > 1
        weight = before.weight[found.outputs[layer]]
        assert torch.equal(after.weight, weight if grouped else weight[:, inputs]), layer
    for layer in (one for one in found.outputs if one not in found.inputs):
        taken = layers[layer].weight[found.outputs[layer]]
        assert torch.equal(found.network.get_submodule(layer).weight, taken)


def test_channels_that_are_zero_everywhere_go_and_the_logits_stay() -> None:
    network = Ending(nn.Sequential(conv(3, 8), nn.ReLU(), basic(8, 8), basic(8, 8)), 8).eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                for value in layer.parameters():
                    value[2] = 0
    copy = narrow(network, 7 / 8, "width", shape=SHAPE)
    assert copy.fc.in_features == 7
    assert torch.allclose(copy(IMAGES), network(IMAGES), atol=1e-5)


def test_a_cut_that_is_wrong_is_seen_and_left_out() -> None:
    """torch-pruning takes a reversal for an operation that keeps the order: the copy runs, and is wrong."""
    network = Ending(nn.Sequential(conv(3, 8), Reversed(), conv(8, 9), nn.ReLU(), conv(9, 8)), 8)
    plan = plan_cut(network, IMAGES)
    assert plan.scope.left == ("body.0",)
    with pytest.raises(CannotCut, match="none of its channels can be cut alone"):
        narrow(Ending(nn.Sequential(conv(3, 8), Reversed()), 8), shape=SHAPE)


class Normed(nn.Module):
    """Group norm with weights of its own, which runs with a multiple of its groups of channels alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, 4, self.weight, self.bias)


def test_a_share_is_found_where_a_copy_with_few_channels_does_not_run() -> None:
    network = Ending(nn.Sequential(conv(3, 16), Normed(16), nn.ReLU(), conv(16, 16)), 16)
    whole = count_multiply_adds(network, IMAGES[:1])
    copy = narrow(network, shape=SHAPE)
    assert 0.2 * whole < count_multiply_adds(copy, IMAGES[:1]) <= 0.5 * whole
    with pytest.raises(CannotCut, match="leaves at least 0.09 of its multiply-adds, not 0.05$"):
        narrow(network, 0.05, shape=SHAPE)


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), ratio=st.floats(0.05, 1.0))
def test_the_shapes_do_not_depend_on_which_channels_stay(seed: int, ratio: float) -> None:
    network, scope = fresh_weights(OWN["residual"], 0), Scope(attention="none")
    plain = cut_channels(network, IMAGES[:1], ratio, scope=scope)
    match, rng = match_copy(network, plain.network, IMAGES[:1]), torch.Generator().manual_seed(seed)
    assert match is not None
    drawn = {one.group.name: torch.rand(one.group.size, generator=rng) for one in match.shares}
    others = match.cut(drawn)
    assert shapes(plain.network) == shapes(others.network)
    assert torch.isfinite(others.network(IMAGES)).all()


@settings(max_examples=200)
@given(each=st.integers(1, 700), parts=st.integers(1, 12), ratio=st.floats(0.001, 1.0))
def test_as_many_channels_stay_as_can_be_used(each: int, parts: int, ratio: float) -> None:
    kept = channels_kept(each * parts, parts, ratio)
    assert 1 <= kept <= each
    assert channels_kept(each * parts, parts, 1.0) == each
    if each * parts >= 64 and each * ratio * parts >= 64 and kept < each:
        assert kept * parts % 8 == 0


@pytest.mark.parametrize("kind", ["narrow", "params"])
def test_the_share_holds(kind: Any) -> None:
    network = fresh_weights(lambda: build(describe("resnet8", shape=SHAPE, classes=5), run_code=False), 0)
    copy = narrow(network, 0.5, kind, shape=SHAPE)
    measure = {
        "narrow": lambda net: count_multiply_adds(net, IMAGES[:1]),
        "params": lambda net: sum(one.numel() for one in net.parameters()),
    }[kind]
    assert 0.35 * measure(network) < measure(copy) <= 0.5 * measure(network)


def test_the_shape_of_the_images_is_needed() -> None:
    with pytest.raises(ZskdError, match=r"shape=\(3, 224, 224\)"):
        narrow(OWN["residual"]())
    with pytest.raises(ZskdError, match="above 0 and at most 1"):
        narrow(OWN["residual"](), 1.5, shape=SHAPE)


def test_probes_lie_in_the_box() -> None:
    spec = InputSpec(shape=SHAPE, mean=(0.5,), std=(0.25,), box=(0.25, 0.75))
    images = probes(spec, nn.Linear(1, 1))
    assert images.shape == (4, *SHAPE)
    assert -1 <= float(images.min()) < float(images.max()) <= 1


@pytest.mark.parametrize("first", [nn.Conv2d, nn.Module], ids=["backbone", "whole"])
@pytest.mark.parametrize("size", ["narrow", "depth"])
def test_layers_that_are_frozen_in_the_network_learn_in_its_copy(
    size: ShareKind, first: type[nn.Module]
) -> None:
    """As after fine-tuning of the head alone, and as people freeze a network for inference."""
    network = own("residual")
    for layer in network.modules():
        if isinstance(layer, first):
            layer.requires_grad_(False)
    before = [value.requires_grad for value in network.parameters()]
    copy = narrow(network, 0.7, size, shape=SHAPE)
    assert all(value.requires_grad for value in copy.parameters())
    assert [value.requires_grad for value in network.parameters()] == before


def test_what_is_fixed_outside_of_layers_stays_fixed_in_a_copy() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.fixed = own("flattened"), nn.Parameter(torch.ones(1), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x * self.fixed)

    copy = narrow(Scaled().eval(), shape=SHAPE)
    assert [name for name, value in copy.named_parameters() if not value.requires_grad] == ["fixed"]


def test_the_head_of_a_chain_in_parts_is_found_in_its_copy() -> None:
    """The copy is one chain, in which another layer has the name of the head."""
    parts = nn.Sequential(nn.Sequential(conv(3, 8), nn.ReLU(), nn.Flatten()), nn.Linear(8 * 256, 5))
    copy = narrow(Classifier(parts, spec=InputSpec(shape=SHAPE)))
    assert isinstance(copy, Classifier)
    assert (copy.classes, copy.head_name) == (5, "3")


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_a_copy_of_a_network_in_another_precision_is_in_single(precision: torch.dtype) -> None:
    network = own("residual").to(precision)
    copy = narrow(network, shape=SHAPE)
    assert {value.dtype for value in copy.parameters()} == {torch.float32}
    assert {value.dtype for value in network.parameters()} == {precision}
    assert bool(torch.isfinite(copy(IMAGES)).all())
