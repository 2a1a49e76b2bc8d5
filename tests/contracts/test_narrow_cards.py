"""Cards of narrower copies, and students by name: built again, resumed, and refused if they lie."""

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import StopAt, Stopped
from small_networks import (
    IMAGES,
    OWN,
    SHAPE,
    Ending,
    basic,
    conv,
    shapes,
)
from zskd.cli.main import main
from zskd.config.distillation import DistillConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.core.extras import import_extra
from zskd.distillation.architecture import describe_student, fresh_student, student
from zskd.distillation.build import build_student
from zskd.distillation.initialisation.from_teacher import initialise_from_teacher
from zskd.distillation.spec import StudentSpec
from zskd.models.checkpoint import Card, load_checkpoint, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import Architecture, Narrowed, build, describe, fresh_weights
from zskd.models.libraries.timm import TimmNetwork
from zskd.models.libraries.torchvision import TorchvisionNetwork
from zskd.models.libraries.transformers import TransformersNetwork
from zskd.models.narrow.changes import apply_changes, find_changes
from zskd.models.narrow.copies import narrow
from zskd.models.narrow.depth import find_blocks
from zskd.models.narrow.matching import match_copy
from zskd.models.narrow.plan import CannotCut
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.teacher.opening import open_teacher
from zskd.transfer_set.dataset import TransferSet

BUILT_IN = [
    ("resnet8", {"width": 0.5}),
    ("wrn-10-1", {}),
    ("mobilenet", {"width": 0.25}),
    ("vgg8", {"width": 0.125}),
]


SMALL = {"width_mult": 0.1, "inverted_residual_setting": [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 1]]}


VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 4, "num_classes": 5}


LIBRARIES: dict[str, Callable[[], Architecture]] = {
    "timm vit": lambda: TimmNetwork(timm="vit_tiny_patch16_224", arguments=VIT),
    "timm deit, two outputs": lambda: TimmNetwork(timm="deit_tiny_distilled_patch16_224", arguments=VIT),
    "timm swin": lambda: TimmNetwork(
        timm="swin_tiny_patch4_window7_224",
        arguments={
            "img_size": 16,
            "patch_size": 2,
            "window_size": 4,
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 4],
            "num_classes": 5,
        },
    ),
    "timm convnext": lambda: TimmNetwork(
        timm="convnextv2_atto",
        arguments={"depths": [1, 1, 1, 1], "dims": [8, 16, 16, 16], "num_classes": 5, "patch_size": 1},
    ),
    "torchvision mobilenet": lambda: TorchvisionNetwork(
        torchvision="mobilenet_v2", arguments={**SMALL, "num_classes": 5}
    ),
    "transformers vit": lambda: TransformersNetwork(
        transformers="vit",
        config={
            "image_size": 16,
            "patch_size": 8,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 32,
            "id2label": {str(i): str(i) for i in range(5)},
            "label2id": {str(i): i for i in range(5)},
        },
    ),
}


def architecture_of(name: str) -> Architecture:
    if name in LIBRARIES:
        if not isinstance(LIBRARIES[name](), TransformersNetwork):
            import_extra("torchvision")
        return LIBRARIES[name]()
    return describe(name, shape=SHAPE, classes=5)


def classifier_of(architecture: Architecture, seed: int = 0) -> Classifier:
    module = fresh_weights(lambda: build(architecture, run_code=False), seed)
    made = Classifier(module, spec=InputSpec(shape=SHAPE), copy=False).freeze()
    made.architecture = architecture
    return made


@pytest.mark.parametrize(
    "name", [*(f"{name}({', '.join(f'{k}={v}' for k, v in a.items())})" for name, a in BUILT_IN), *LIBRARIES]
)
def test_a_card_builds_a_copy_again(name: str, tmp_path: Path) -> None:
    teacher = classifier_of(architecture_of(name))
    architecture = describe_student("width:0.6", teacher)
    assert isinstance(architecture, Narrowed)
    made = fresh_student(architecture, teacher, seed=3)
    assert made.fingerprint() == fresh_student(architecture, teacher, seed=3).fingerprint()
    assert made.parameters_count < 0.9 * teacher.parameters_count
    save_checkpoint(made, Card(architecture=architecture), tmp_path / "student")
    loaded, card = load_checkpoint(tmp_path / "student")
    assert card.architecture == architecture
    images = torch.rand(2, *SHAPE)
    assert torch.equal(loaded.eval()(images), made.eval()(images))
    match = match_copy(teacher.module, made.module, teacher.normalise(images[:1]))
    assert match is not None
    again = match.cut({one.group.name: torch.ones(one.group.size) for one in match.shares})
    assert shapes(again.network) == shapes(made.module)
    assert torch.isfinite(again.network(teacher.normalise(images))[0]).all()


def test_blocks_are_left_out_and_the_others_keep_their_weights(tmp_path: Path) -> None:
    network = Ending(nn.Sequential(conv(3, 8), nn.ReLU(), *(basic(8, 8) for _ in range(4))), 8).eval()
    assert find_blocks(network, IMAGES) == ("body.2", "body.3", "body.4", "body.5")
    with torch.no_grad():
        network.body[3].branch[4].weight.zero_()  # this block adds nothing
        network.body[3].branch[4].bias.zero_()
    copy = narrow(network, 0.99, "depth", shape=SHAPE)
    assert find_changes(network, copy).dropped == ("body.3",)
    assert torch.equal(copy(IMAGES), network(IMAGES))
    with pytest.raises(CannotCut, match=r"without its 4 residual blocks .* not 0.01"):
        narrow(network, 0.01, "depth", shape=SHAPE)
    with pytest.raises(CannotCut, match="no residual blocks"):
        narrow(OWN["flattened"](), 0.5, "depth", shape=SHAPE)
    teacher = classifier_of(architecture_of("resnet14(width=0.5)"))
    architecture = describe_student("depth:0.7", teacher)
    made = fresh_student(architecture, teacher, 0)
    save_checkpoint(made, Card(architecture=architecture), tmp_path / "student")
    images = torch.rand(2, *SHAPE)
    assert torch.equal(load_checkpoint(tmp_path / "student")[0].eval()(images), made.eval()(images))


LIES: dict[str, dict[str, Any]] = {
    "no such layer": {"attributes": {"conv9": {"out_channels": 2}}},
    "no such number": {"attributes": {"head": {"secret": 2}}},
    "no number": {"attributes": {"": {"training": 1}}},
    "larger": {"attributes": {"head": {"in_features": 10**9}}},
    "a tuple for a number": {"attributes": {"head": {"in_features": (1, 2)}}},
    "no such tensor": {"shapes": {"head.other": (2,)}},
    "another number of dimensions": {"shapes": {"head.weight": (2,)}},
    "a larger tensor": {"shapes": {"head.weight": (10**9, 10**9)}},
    "no such block": {"dropped": ("stages.9",)},
    "the whole network": {"dropped": ("",)},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_card_that_lies_is_refused_in_one_line(lie: str, tmp_path: Path) -> None:
    teacher = classifier_of(architecture_of("resnet8(width=0.5)"))
    head = next(name for name, one in teacher.module.named_modules() if isinstance(one, nn.Linear))
    text = json.dumps(LIES[lie]).replace("head", head)
    architecture = {
        "student": "narrow:0.5",
        "of": teacher.architecture.to_json(),
        "changes": json.loads(text),
    }
    save_checkpoint(teacher, Card(architecture=teacher.architecture), tmp_path / "student")
    card = json.loads((tmp_path / "student/card.json").read_text())
    (tmp_path / "student/card.json").write_text(json.dumps(card | {"architecture": architecture}))
    with pytest.raises(
        ZskdError, match="the architecture in the card is damaged|card of a checkpoint"
    ) as caught:
        load_checkpoint(tmp_path / "student")
    assert "\n" not in str(caught.value)


def test_changes_of_another_network_are_refused() -> None:
    small, large = (classifier_of(architecture_of(f"resnet8(width={w})")).module for w in (0.5, 1.0))
    with pytest.raises(ZskdError, match="the architecture in the card is damaged"):
        apply_changes(small, find_changes(small, large))


def test_a_teacher_whose_origin_is_not_known() -> None:
    chain = Classifier(OWN["flattened"](), spec=InputSpec(shape=SHAPE)).freeze()
    made = student("narrow:0.5", like=chain)
    assert made.parameters_count < 0.6 * chain.parameters_count
    assert made.architecture.of.title == "layers"
    other = Classifier(OWN["residual"](), spec=InputSpec(shape=SHAPE)).freeze()
    with pytest.raises(ZskdError, match="how the teacher's network is built is not known") as caught:
        student("narrow:0.5", like=other)
    assert "\n" not in str(caught.value)
    copy = narrow(other)
    assert isinstance(copy, Classifier)
    assert copy.spec == other.spec
    assert copy.architecture is None


def test_a_student_of_a_library_fits_the_teacher() -> None:
    teacher = classifier_of(architecture_of("resnet8(width=0.5)"))
    made = student(
        "timm:vit_tiny_patch16_224(patch_size=8, embed_dim=24, depth=1, num_heads=2)", like=teacher
    )
    assert (made.classes, made.spec) == (5, teacher.spec)
    made = student("torchvision:mobilenet_v2(width_mult=0.1)", like=teacher)
    assert made.architecture == TorchvisionNetwork(
        torchvision="mobilenet_v2", arguments={"num_classes": 5, "width_mult": 0.1}
    )
    grey = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(256, 5)), spec=InputSpec(shape=(1, 16, 16)))
    with pytest.raises(ZskdError, match="takes images of 3 channels, not 1: choose timm:NAME"):
        student("torchvision:mobilenet_v2", like=grey)


CODE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, hidden, 3, padding=1), nn.Conv2d(hidden, 8, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.b(torch.relu(self.a(x))))

def build(hidden=8):
    first, last = nn.Conv2d(3, 8, 3, stride=2, padding=1), (nn.AvgPool2d(8), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(first, nn.ReLU(), Block(hidden), Block(hidden), *last)
"""


SPEED = DistillConfig(steps=8, batch_size=8, optimiser="adam", start="random")


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("code") / "narrow_networks.py"
    file.write_text(CODE)
    return f"{file}:build(hidden=12)"


@pytest.fixture(scope="module")
def code_teacher(code: str) -> Classifier:
    architecture = describe(code, shape=SHAPE, classes=5)
    module = fresh_weights(lambda: build(architecture, run_code=True), 0)
    made = Classifier(module, spec=InputSpec(shape=SHAPE), copy=False).freeze()
    made.architecture = architecture
    return made


@pytest.fixture(scope="module")
def noise(code_teacher: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    spec = SetSpec(method="noise", count=24, synthesis=SynthesisConfig(steps=1, batch_size=24))
    return build_transfer_set(code_teacher, spec, tmp_path_factory.mktemp("noise") / "set")


def test_an_interrupted_student_is_resumed_to_the_same_bytes(
    code_teacher: Classifier, noise: TransferSet, tmp_path: Path
) -> None:
    spec = StudentSpec(student="narrow:0.5", seed=1, distill=SPEED)
    whole = build_student(code_teacher, spec, noise, tmp_path / "whole")
    with pytest.raises(Stopped):
        build_student(code_teacher, spec, noise, tmp_path / "stopped", progress=StopAt(4))
    resumed = build_student(code_teacher, spec, noise, tmp_path / "stopped")
    assert resumed.fingerprint() == whole.fingerprint()
    again = build_student(code_teacher, spec, noise, tmp_path / "whole")
    assert again.fingerprint() == whole.fingerprint()
    assert whole.parameters_count < 0.6 * code_teacher.parameters_count


def test_the_commands_make_and_open_it(
    code: str,
    code_teacher: Classifier,
    noise: TransferSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher, made = tmp_path / "teacher", tmp_path / "student"
    save_checkpoint(code_teacher, Card(architecture=code_teacher.architecture), teacher)
    settings = ["--distill.steps", "2", "--distill.batch-size", "8", "--distill.start", "random"]
    given = [*map(str, (teacher, noise.folder)), "--model", code, "--student", "narrow:0.5", *settings]
    assert main(["distill", *given, "--no-estimate", "--quiet", "--out", str(made)]) == 0
    card = json.loads((made / "card.json").read_text())["architecture"]
    assert (card["student"], card["of"]["factory"]) == ("narrow:0.5", code)
    assert main(["inspect", str(made)]) == 0
    out = capsys.readouterr().out
    assert f"network       narrow:0.5 of {code}" in out
    assert "narrow:0.5    " in out
    assert "by cutting all channels" in out


def test_a_copy_of_a_network_from_an_onnx_file_keeps_the_file(tmp_path: Path) -> None:
    network = build(describe("resnet8(width=0.5)", shape=SHAPE, classes=5), run_code=False).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (IMAGES,), tmp_path / "net.onnx", dynamo=False)
    teacher, _ = open_teacher(f"onnx:{tmp_path / 'net.onnx'}", shape=SHAPE)
    made = student("width:0.6", like=teacher)
    assert made.fingerprint() == student("width:0.6", like=teacher).fingerprint()
    save_checkpoint(made, Card(architecture=made.architecture), tmp_path / "student")
    loaded, _ = load_checkpoint(tmp_path / "student")
    sent = pickle.loads(pickle.dumps(made))
    images = torch.rand(2, *SHAPE)
    assert torch.equal(loaded.eval()(images), made.eval()(images))
    assert torch.equal(sent.eval()(images), made(images))
    assert made.parameters_count < 0.7 * teacher.parameters_count
    assert all(value.requires_grad for value in made.module.parameters())  # those of the teacher do not
    spec = SetSpec(method="noise", count=20, synthesis=SynthesisConfig(shard_size=20))
    noise = build_transfer_set(teacher, spec, tmp_path / "noise", workers=1)
    assert initialise_from_teacher(teacher, made.module, noise).from_teacher


PARTLY_FROZEN = """
import torch.nn as nn

def build():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )
    network[0].requires_grad_(False)
    return network
"""


def test_a_copy_of_a_network_whose_code_freezes_a_layer_learns_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "partly_frozen.py"
    path.write_text(PARTLY_FROZEN)
    teacher, _ = open_teacher(f"{path}:build", shape=SHAPE)
    made = student("narrow:0.5", like=teacher)
    assert all(value.requires_grad for value in made.module.parameters())
