"""The built-in networks: names, numbers and functions as published; any size, channels, classes and norm."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd.config.data import DataConfig
from zskd.config.distillation import DistillConfig
from zskd.config.recipe import Recipe
from zskd.config.registry import ARCHITECTURES
from zskd.config.synthesis import SynthesisConfig
from zskd.config.training import TeacherConfig
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress
from zskd.distillation.build import build_student
from zskd.distillation.spec import StudentSpec
from zskd.models.checkpoint import Card, StoredCard, load_checkpoint, read_card, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import Named, build, describe, fresh_weights, half
from zskd.models.networks.lenet import lenet5
from zskd.models.networks.resnet import PaddedShortcut
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.teacher.sources import make_teacher, open_sources

RGB = (3, 32, 32)


def network(name: str, shape: tuple[int, int, int] = RGB, classes: int = 10, seed: int = 0) -> nn.Module:
    architecture = describe(name, shape=shape, classes=classes)
    return fresh_weights(lambda: build(architecture, run_code=False), seed)


def used(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch-norm layers statistics and weights that training could have left."""
    numbers = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values, low, high in (
                (layer.running_mean, -0.5, 0.5),
                (layer.running_var, 0.5, 2.0),
                (layer.weight.data, 0.5, 1.0),
                (layer.bias.data, -0.3, 0.3),
            ):
                assert values is not None
                values.uniform_(low, high, generator=numbers)
    return module.eval()


PUBLISHED = {
    # github.com/akamaster/pytorch_resnet_cifar10; He et al. 2016, table 6: 0.27, 0.46, 0.66, 0.85, 1.7 M
    ("resnet20", 10): 269_722,
    ("resnet32", 10): 464_154,
    ("resnet44", 10): 658_586,
    ("resnet56", 10): 853_018,
    ("resnet110", 10): 1_727_962,
    # torchvision
    ("resnet18", 1000): 11_689_512,
    ("resnet34", 1000): 21_797_672,
    # Zagoruyko and Komodakis 2016, tables 4 and 5: 0.2 M, 2.2 M, 36.5 M
    ("wrn-16-1", 10): 175_066,
    ("wrn-40-2", 10): 2_243_546,
    ("wrn-28-10", 10): 36_479_194,
    # github.com/HobbitLong/RepDistiller and github.com/kuangliu/pytorch-cifar
    ("vgg8", 100): 3_965_028,
    ("vgg16", 10): 14_728_266,
    ("vgg19", 10): 20_040_522,
    ("mobilenet", 10): 3_217_226,
    ("mlp(widths=(256, 128))", 10): 3072 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10,
}


@pytest.mark.parametrize(("name", "classes"), PUBLISHED)
def test_the_number_of_parameters_is_the_published_one(name: str, classes: int) -> None:
    architecture = describe(name, shape=RGB, classes=classes)
    with torch.device("meta"):
        module = build(architecture, run_code=False)
    assert sum(p.numel() for p in module.parameters()) == PUBLISHED[name, classes]


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def norm_names(*layers: str) -> set[str]:
    return {f"{layer}.{value}" for layer in layers for value in NORM}


def block_names(stage: str, blocks: int) -> set[str]:
    names = set()
    for i in range(blocks):
        names |= {f"{stage}.{i}.conv1.weight", f"{stage}.{i}.conv2.weight"}
        names |= norm_names(f"{stage}.{i}.bn1", f"{stage}.{i}.bn2")
    return names


def test_the_tensors_have_the_names_of_the_public_implementations() -> None:
    expected = {"conv1.weight", "linear.weight", "linear.bias"} | norm_names("bn1")
    for stage in (1, 2, 3):
        expected |= block_names(f"layer{stage}", 3)
    assert set(network("resnet20").state_dict()) == expected

    expected = {"conv1.weight", "fc.weight", "fc.bias"} | norm_names("bn1")
    for stage in (1, 2, 3, 4):
        expected |= block_names(f"layer{stage}", 2)
        if stage > 1:
            expected |= {f"layer{stage}.0.downsample.0.weight"} | norm_names(f"layer{stage}.0.downsample.1")
    found = network("resnet18", classes=1000).state_dict()
    assert set(found) == expected
    assert len(found) == 122
    assert found["conv1.weight"].shape == (64, 3, 7, 7)
    assert found["layer4.0.downsample.0.weight"].shape == (512, 256, 1, 1)

    expected = {"conv1.weight", "fc.weight", "fc.bias"} | norm_names("bn1")
    for stage in (1, 2, 3):
        expected |= block_names(f"block{stage}.layer", 2)
        expected |= {f"block{stage}.layer.0.convShortcut.weight"} if stage > 1 else set()
    assert set(network("wrn-16-1").state_dict()) == expected

    # torchvision's vgg11 and vgg11_bn number their features like that
    plain, normalised = network("vgg11(norm=none, width=0.1)"), network("vgg11(width=0.1)")
    assert [n for n in plain.state_dict() if n.endswith("weight")] == [
        *(f"features.{i}.weight" for i in (0, 3, 6, 8, 11, 13, 16, 18)),
        "classifier.weight",
    ]
    convolutions = [n for n, layer in normalised.named_modules() if isinstance(layer, nn.Conv2d)]
    assert convolutions == [f"features.{i}" for i in (0, 4, 8, 11, 15, 18, 22, 25)]

    expected = {"conv1.weight", "linear.weight", "linear.bias"} | norm_names("bn1")
    expected |= block_names("layers", 13)
    assert set(network("mobilenet(width=0.1)").state_dict()) == expected


def test_a_mobilenet_of_fewer_blocks_is_the_beginning_of_the_whole_one() -> None:
    whole = network("mobilenet(width=0.1)").state_dict()
    few = network("mobilenet(width=0.1, blocks=4)", (3, 2, 2))
    kept = {name for name in whole if not name.startswith("layers.") or int(name.split(".")[1]) < 4}
    assert set(few.state_dict()) == kept
    assert few.get_submodule("linear").weight.shape == (10, 26)
    assert few(torch.rand(2, 3, 2, 2)).shape == (2, 10)
    assert network("mobilenet(width=0.1, blocks=1)", (3, 1, 1))(torch.rand(2, 3, 1, 1)).shape == (2, 10)
    with pytest.raises(ZskdError, match="at least 2×2 pixels"):
        describe("mobilenet(blocks=4)", shape=(3, 1, 2), classes=10)
    for blocks in (0, 14):
        with pytest.raises(ZskdError, match="blocks"):
            describe(f"mobilenet(blocks={blocks})", shape=RGB, classes=10)


def normalise(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var, weight, bias = (
        state[f"{name}.{value}"].view(1, -1, 1, 1)
        for value in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def residual_by_hand(state: dict[str, Tensor], x: Tensor, stages: list[int], head: str) -> Tensor:
    """Compute a network of basic blocks (He et al. 2016) from its tensors."""
    imagenet = head == "fc"
    x = F.conv2d(x, state["conv1.weight"], stride=2 if imagenet else 1, padding=3 if imagenet else 1)
    x = torch.relu(normalise(x, state, "bn1"))
    x = F.max_pool2d(x, 3, 2, 1) if imagenet else x
    for stage, blocks in enumerate(stages, 1):
        for i in range(blocks):
            here, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = F.conv2d(x, state[f"{here}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(
                torch.relu(normalise(y, state, f"{here}.bn1")), state[f"{here}.conv2.weight"], padding=1
            )
            if stride == 2 and imagenet:
                x = F.conv2d(x, state[f"{here}.downsample.0.weight"], stride=2)
                x = normalise(x, state, f"{here}.downsample.1")
            elif stride == 2:  # half of the channels are new: a quarter of zeros on both sides
                kept = x[:, :, ::2, ::2]
                zeros = torch.zeros_like(kept[:, : kept.shape[1] // 2])
                x = torch.cat([zeros, kept, zeros], 1)
            x = torch.relu(x + normalise(y, state, f"{here}.bn2"))
    return F.linear(x.mean((2, 3)), state[f"{head}.weight"], state[f"{head}.bias"])


def wide_by_hand(state: dict[str, Tensor], x: Tensor, blocks: int) -> Tensor:
    """Compute a wide ResNet (Zagoruyko and Komodakis 2016) from its tensors."""
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for i in range(blocks):
            here, stride = f"block{stage}.layer.{i}", 2 if stage > 1 and i == 0 else 1
            active = torch.relu(normalise(x, state, f"{here}.bn1"))
            y = F.conv2d(active, state[f"{here}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(
                torch.relu(normalise(y, state, f"{here}.bn2")), state[f"{here}.conv2.weight"], padding=1
            )
            shortcut = state.get(f"{here}.convShortcut.weight")
            x = y + (x if shortcut is None else F.conv2d(active, shortcut, stride=stride))
    x = torch.relu(normalise(x, state, "bn1")).mean((2, 3))
    return F.linear(x, state["fc.weight"], state["fc.bias"])


IMAGES = torch.rand(2, 3, 33, 46, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["resnet14", "resnet18(width=0.25)", "wrn-16-2"])
@torch.no_grad()
def test_the_forward_pass_is_that_of_the_paper(name: str) -> None:
    module = used(network(name, (3, 33, 46)))
    state = module.state_dict()
    if name.startswith("wrn"):
        expected = wide_by_hand(state, IMAGES, 2)
    else:
        small = name == "resnet14"
        expected = residual_by_hand(
            state, IMAGES, [2, 2, 2] if small else [2] * 4, "linear" if small else "fc"
        )
    torch.testing.assert_close(module(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_the_shortcut_without_parameters_takes_any_number_of_channels() -> None:
    images = torch.rand(1, 5, 5, 6)
    found = PaddedShortcut(5, 8)(images)
    assert torch.equal(found[:, 1:6], images[:, :, ::2, ::2])
    assert found.shape == (1, 8, 3, 3)
    assert not found[:, :1].any()
    assert not found[:, 6:].any()


def narrow(name: str, **arguments: Any) -> str:
    """Return a quick name of the same kind."""
    if not name.startswith(("lenet", "mlp", "wrn")):
        arguments["width"] = 0.13
    if name == "lenet5_bn":
        arguments.pop("norm", None)
    return f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})"


LEAST = {
    "lenet": 16,
    "resnet18": 16,
    "resnet34": 16,
    "resnet": 2,
    "wrn": 2,
    "vgg": 16,
    "mobilenet": 8,
    "mlp": 1,
}


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
@pytest.mark.parametrize("name", ARCHITECTURES.examples)
def test_any_size_channels_classes_and_norm(name: str, norm: str) -> None:
    least = next(size for start, size in LEAST.items() if name.startswith(start))
    name = narrow(name, norm=norm)
    for height, width in ((least, least), (least + 3, least + 9), (28, 28), (41, 37)):
        module = network(name, (2, height, width), classes=3)
        logits = module(torch.rand(3, 2, height, width))
        assert logits.shape == (3, 3)
        assert torch.isfinite(logits).all()
    if least > 1:
        with pytest.raises(ZskdError, match=rf"at least {least}×{least} pixels, not {least - 1}×40$"):
            describe(name, shape=(2, least - 1, 40), classes=3)
    kinds = {type(layer) for layer in module.modules()}
    assert (nn.GroupNorm in kinds) == (norm == "group" and "lenet5_bn" not in name)
    assert bool({nn.BatchNorm2d, nn.BatchNorm1d} & kinds) == (norm == "batch" or "lenet5_bn" in name)


def test_the_small_stem_keeps_small_images() -> None:
    small = network("resnet18(stem=small, width=0.13)", (3, 4, 4))
    assert small(torch.rand(2, 3, 4, 4)).shape == (2, 10)
    assert small.get_submodule("conv1").weight.shape[2:] == (3, 3)


@pytest.mark.parametrize("name", ARCHITECTURES.examples)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    one, same, other = (network(narrow(name), (3, 17, 17), seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_checking_a_name_draws_no_numbers() -> None:
    expected = fresh_weights(lambda: lenet5(3, 10, 32), 5).state_dict()
    found = network("lenet5", seed=5).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    "name", ["resnet20", "resnet18(width=0.5)", "wrn-16-4", "vgg11(width=0.5)", "mobilenet", "mlp"]
)
def test_initial_weights_are_those_of_he(name: str) -> None:
    layers = [layer for layer in network(name).modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers[:-1]:
        values = layer.weight[0].numel()
        expected = math.sqrt(2 / values)
        spread = expected * 5 / math.sqrt(2 * layer.weight.numel())
        assert float(layer.weight.detach().std()) == pytest.approx(expected, abs=spread)


@pytest.mark.parametrize(
    "name", ["resnet56(norm=none)", "wrn-40-1(norm=none)", "resnet34(norm=none, width=0.25)"]
)
def test_without_normalisation_a_deep_network_begins_like_a_shallow_one(name: str) -> None:
    assert 0.01 < float(network(name)(torch.rand(4, *RGB)).detach().std()) < 10


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "wrn-10-1", "vgg8", "mobilenet"])
def test_batch_norm_is_fused_and_the_outputs_stay_the_same(name: str) -> None:
    classifier = Classifier(used(network(narrow(name))), spec=InputSpec(shape=RGB)).freeze()
    convolutions = [n for n, layer in classifier.module.named_modules() if isinstance(layer, nn.Conv2d)]
    # in a block with preactivation, only the first of two convolutions is followed by its normalisation
    assert len(classifier.merged) >= len(convolutions) // 3
    images = torch.rand(2, *RGB)
    fused = classifier(images)
    classifier.rewrite = False
    torch.testing.assert_close(fused, classifier(images), rtol=1e-4, atol=1e-4)


def test_chains_have_a_half_and_others_name_a_student() -> None:
    for name in ("mlp", "vgg8(width=0.2)"):
        module = network(name)
        assert sum(p.numel() for p in half(module).parameters()) < 0.6 * sum(
            p.numel() for p in module.parameters()
        )
    with pytest.raises(ZskdError, match="choose --student narrow:0.5, a built-in student, e.g. resnet8"):
        half(network("resnet8"))


@pytest.mark.parametrize(
    ("name", "shape", "written", "size"),
    [
        ("lenet5", (1, 32, 32), "lenet5", 32),
        ("resnet8( norm = group )", (3, 20, 24), "resnet8(norm=group)", [20, 24]),
    ],
)
def test_the_card_of_a_name(
    name: str, shape: tuple[int, int, int], written: str, size: Any, tmp_path: Path
) -> None:
    architecture = describe(name, shape=shape, classes=10)
    values = {"name": written, "channels": shape[0], "classes": 10, "size": size}
    assert list(architecture.to_json().items()) == list(values.items())
    classifier = Classifier(network(name, shape), spec=InputSpec(shape=shape)).freeze()
    save_checkpoint(classifier, Card(architecture=architecture), tmp_path / "net")
    loaded, card = load_checkpoint(tmp_path / "net")
    assert card.architecture == architecture
    assert loaded.fingerprint() == classifier.fingerprint()
    images = torch.rand(2, *shape)
    assert torch.equal(loaded.freeze()(images), classifier(images))


def test_a_card_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    old = Path(__file__).resolve().parents[1] / "files" / "0.1.0" / "teacher.json"
    card = StoredCard.model_validate_json(old.read_text("utf-8"), strict=True)
    assert isinstance(card.architecture, Named)
    build(card.architecture, run_code=False)
    (tmp_path / "card.json").write_text(old.read_text("utf-8"))
    assert read_card(tmp_path) == card


def test_a_named_teacher_is_trained_and_a_named_student_distilled(tmp_path: Path) -> None:
    model = "resnet8(width=0.25)"
    recipe = Recipe(
        data=DataConfig(name="digits"),
        teacher=TeacherConfig(model=model, shape=(1, 12, 16), steps=40, batch_size=32, learning_rate=1e-2),
    )
    sources = open_sources(recipe)
    teacher = make_teacher(recipe, sources, tmp_path / "teacher", Progress())
    assert sources.data is not None
    test = sources.data.test
    with torch.no_grad():
        right = (teacher(test.images).argmax(1) == test.labels).float().mean()
    assert right > 0.4
    spec = SetSpec(method="noise", count=20, synthesis=SynthesisConfig(shard_size=20))
    images = build_transfer_set(teacher, spec, tmp_path / "set")
    for name in ("wrn-10-1(norm=group)", "mlp(widths=(16,))"):
        of_student = StudentSpec(student=name, distill=DistillConfig(steps=2, batch_size=8))
        student = build_student(teacher, of_student, images, tmp_path / name)
        assert read_card(tmp_path / name).architecture == describe(name, shape=(1, 12, 16), classes=10)
        assert student.classes == 10
        again = build_student(teacher, of_student, images, tmp_path / "again" / name)
        assert again.fingerprint() == student.fingerprint()
