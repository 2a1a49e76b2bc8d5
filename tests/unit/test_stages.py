"""The stages of networks of every kind, and which of them are compared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zskd.core.errors import ZskdError
from zskd.distillation.features.pairing import pair_layers, pair_stages
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe, fresh_weights
from zskd.models.observation import observe
from zskd.models.stages import Stage, find_convolutions, find_stages

SHAPE = (3, 16, 16)


class Block(nn.Module):
    """A block of a transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), nn.Linear(width, width)
        self.weights = nn.Softmax(-1)

    def forward(self, tokens: Tensor) -> Tensor:
        norm = self.norm(tokens)
        mixed = self.weights(norm @ norm.transpose(1, 2)) @ norm
        return tokens + self.mlp(mixed)


class Tokens(nn.Module):
    """A vision transformer with a class token."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(tokens), -1, -1), tokens], 1)
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class LastChannels(nn.Module):
    """Two stages whose maps have their channels last, (N, H, W, C), as those of Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mlp = nn.Conv2d(3, 4, 2, 2), nn.Linear(4, 4)
        self.merge, self.head = nn.Linear(16, 6), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.mlp(self.stem(images).permute(0, 2, 3, 1))
        corners = [maps[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.head(self.merge(torch.cat(corners, -1)).mean((1, 2)))


class Bare(nn.Module):
    """A network without layers."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(768, 5))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.matrix


class Inverted(nn.Module):
    """A block that widens its input before it halves the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.down = nn.Conv2d(4, 12, 1), nn.Conv2d(12, 6, 3, 2, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return self.down(self.wide(maps).relu())


def classifier(make: Any, shape: tuple[int, int, int] = SHAPE) -> Classifier:
    return Classifier(fresh_weights(make, 0), spec=InputSpec(shape=shape)).freeze()


def named(name: str) -> Classifier:
    return classifier(lambda: build(describe(name, shape=SHAPE, classes=5), run_code=False))


def inverted() -> nn.Module:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True), Inverted(), *head)


def told(stages: list[Stage]) -> list[str]:
    return [str(stage) for stage in stages]


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet8", ["layer1 (16×16×16)", "layer2 (32×8×8)", "layer3 (64×4×4)"]),
        ("vgg8(width=0.1)", ["features.2 (6×16×16)", "features.6 (13×8×8)", "features.10 (26×4×4)"]),
        ("mlp(widths=(9, 7))", ["fc0_relu (9×1×1)", "fc1_relu (7×1×1)"]),
    ],
)
def test_a_stage_is_what_ends_a_resolution(name: str, stages: list[str]) -> None:
    assert told(find_stages(named(name)))[: len(stages)] == stages


def test_a_block_of_the_next_stage_does_not_end_a_stage() -> None:
    assert told(find_stages(classifier(inverted))) == ["1 (4×8×8)", "2 (6×4×4)"]


def test_a_transformer_has_the_ends_of_its_blocks() -> None:
    network = classifier(lambda: Tokens(2, 8))
    stages = find_stages(network)
    assert told(stages) == ["blocks.0 (8×4×4)", "blocks.1 (8×4×4)"]
    images = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    tokens = observe(network, images, outputs_named=["blocks.1"]).layers[0].value
    by_hand = torch.stack([tokens[:, 1 + i] for i in range(16)], -1).reshape(3, 8, 4, 4)
    assert torch.equal(stages[1].maps(tokens), by_hand)


def test_channels_may_come_last() -> None:
    network = classifier(LastChannels)
    stages = find_stages(network)
    assert told(stages) == ["mlp (4×8×8)", "merge (6×4×4)"]
    value = torch.arange(2 * 8 * 8 * 4.0).reshape(2, 8, 8, 4)
    assert torch.equal(stages[0].maps(value), value.permute(0, 3, 1, 2))


def test_a_network_without_inner_layers_has_no_stages() -> None:
    bare = classifier(Bare)
    assert find_stages(bare) == []
    with pytest.raises(ZskdError, match=r"no stages .* or give --distill.features.weight 0"):
        pair_layers(bare, named("resnet8"), "stages", needs_places=True)


def test_convolutions_are_listed_call_by_call() -> None:
    layer = nn.Conv2d(3, 3, 3, padding=1)
    twice = classifier(lambda: nn.Sequential(layer, nn.ReLU(), layer, nn.Flatten(), nn.Linear(768, 5)))
    assert [(one.name, one.call) for one in find_convolutions(twice)] == [("0", 0), ("0", 1)]


def paired(teacher: Classifier, student: Classifier) -> list[tuple[str, str]]:
    return [(s.name, t.name) for s, t in pair_stages(find_stages(teacher), find_stages(student))]


def test_stages_of_the_same_resolution_are_paired() -> None:
    pairs = [("layer1", "layer1"), ("layer2", "layer2"), ("layer3", "layer3")]
    assert paired(named("resnet14"), named("resnet8")) == pairs
    assert paired(named("resnet8"), classifier(inverted)) == [("1", "layer2"), ("2", "layer3")]


def test_other_stages_are_paired_by_relative_depth() -> None:
    six, three = classifier(lambda: Tokens(6, 8)), classifier(lambda: Tokens(3, 4))
    blocks = [("blocks.0", "blocks.1"), ("blocks.1", "blocks.3"), ("blocks.2", "blocks.5")]
    assert paired(six, three) == blocks
    assert paired(six, named("resnet8"))[-1] == ("layer3", "blocks.5")
    assert paired(named("mlp(widths=(9, 7))"), named("resnet8")) == [
        ("layer2", "fc0_relu"),
        ("layer3", "fc1_relu"),
    ]


def test_pairs_of_one_place_are_left_out_where_places_are_compared() -> None:
    mlp, residual = named("mlp(widths=(9, 7))"), named("resnet8")
    assert len(pair_layers(mlp, residual, "stages", needs_places=False)) == 2
    with pytest.raises(ZskdError, match=r"choose another --distill.features.loss"):
        pair_layers(mlp, residual, "stages", needs_places=True)


def test_convolutions_of_other_sizes_are_refused() -> None:
    pairs = pair_layers(named("resnet8"), named("resnet8"), "convolutions", needs_places=True)
    assert len(pairs) == 7
    with pytest.raises(ZskdError, match=r"\[64, 64, 16\] .* give --distill.features.layers stages"):
        pair_layers(named("resnet8"), classifier(inverted), "convolutions", needs_places=True)
