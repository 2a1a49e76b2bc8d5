"""Teachers as people have them: networks that keep activations, own files for the networks of libraries."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zskd.core.code import code_sha256
from zskd.core.errors import ZskdError
from zskd.core.extras import import_extra
from zskd.core.files import sha256_file
from zskd.evaluation.inspection import inspect_teacher
from zskd.models import allocation
from zskd.models.chain import read_layers
from zskd.models.checkpoint import NOT_KNOWN, Card, Origin, load_checkpoint, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import Layers, Narrowed, build, describe
from zskd.models.narrow.changes import Changes
from zskd.models.narrow.copies import narrow
from zskd.models.narrow.matching import match_copy
from zskd.teacher.golden import check_golden
from zskd.teacher.named.facts import Given, settle
from zskd.teacher.named.source import parse_source
from zskd.teacher.opening import find_network, open_teacher

SPEC = InputSpec(shape=(1, 8, 8))


class Several(nn.Module):
    """Returns its features before its logits, and their softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.conv(x).relu().mean((2, 3))
        logits = self.fc(features)
        return features, logits.softmax(1), logits


class Capped(nn.Module):
    """Keeps its logits within 30, as some language models and their descendants do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return 30 * (self.fc(x.flatten(1)) / 3).tanh()


class Keeps(nn.Module):
    """Keeps what it computes on the way, as many networks do for a loss or a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(288, 4)
        self.shown: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.feat = self.conv(x).relu()
        self.shown["all"] = self.feat
        return self.fc(self.feat.flatten(1))


def test_a_network_that_keeps_activations_is_copied_with_them() -> None:
    network, image = Keeps(), torch.rand(1, 1, 8, 8)
    small = narrow(network, 0.5, shape=SPEC.shape)
    network(image)
    assert network.feat.grad_fn is not None
    assert match_copy(network, small, image) is not None
    teacher = Classifier(network, spec=SPEC)
    teacher(image)
    assert copy.deepcopy(teacher).fingerprint() == teacher.fingerprint()


def test_a_trace_leaves_nothing_in_a_network() -> None:
    network = Keeps()
    network(torch.rand(2, 1, 8, 8))
    before = network.feat
    read_layers(network)
    assert network.feat is network.shown["all"] is before
    pickle.dumps(network)


def test_a_small_student_of_a_large_teacher_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher's whole network is built on the way to it."""
    monkeypatch.setattr(allocation, "_BESIDE", 0)
    teacher = Classifier(build(describe("mlp", shape=SPEC.shape, classes=3), run_code=False), spec=SPEC)
    student = narrow(teacher, 0.01, "params")
    assert student.parameters_count < teacher.parameters_count / 20
    save_checkpoint(student, Card(architecture=student.architecture), tmp_path / "student")
    assert load_checkpoint(tmp_path / "student")[0].fingerprint() == student.fingerprint()
    huge = Layers(layers=(("Linear", {"in_features": 10**5, "out_features": 10**5}),))
    card = Card(architecture=Narrowed(student="narrow:0.1", of=huge, changes=Changes()))
    save_checkpoint(student, card, tmp_path / "huge")
    with pytest.raises(ZskdError, match="larger than its weights"):
        load_checkpoint(tmp_path / "huge")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of three channels with its own normalisation."""
    architecture = describe("resnet8(width=0.5)", shape=(3, 8, 8), classes=3)
    spec = InputSpec(shape=(3, 8, 8), mean=(0.5,), std=(0.1, 0.2, 0.3), box=(0.1, 0.9))
    teacher = Classifier(build(architecture, run_code=False), spec=spec, class_names=("a", "b c", "d"))
    return save_checkpoint(teacher, Card(architecture=architecture), tmp_path_factory.mktemp("teacher"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"shape": (3, 16, 16)}, "with shape 3 8 8: import its weights again with --shape 3 16 16,"),
        ({"mean": (0.0,)}, "with mean 0.5: import its weights again with --mean 0, or leave out --mean"),
        ({"std": (0.1,)}, "with std 0.1 0.2 0.3: "),
        ({"box": (0.0, 0.9)}, "with box 0.1 0.9: "),
        ({"box": (0.0, 1.0)}, "with box 0.1 0.9: import its weights again with --box 0 1, or"),
        ({"class_names": ("a", "d", "b c")}, "with class names a 'b c' d: import its weights again with --"),
        ({"head": "conv1"}, "with head linear: "),
    ],
)
def test_other_values_than_those_of_a_checkpoint_are_refused(
    checkpoint: Path, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ZskdError, match="is a checkpoint") as error:
        open_teacher(checkpoint, **given)
    assert words in str(error.value)


def test_the_values_of_a_checkpoint_may_be_told_again(checkpoint: Path) -> None:
    same = {"shape": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.1, 0.2, 0.3), "box": (0.1, 0.9)}
    open_teacher(checkpoint, **same, class_names=("a", "b c", "d"), head="linear")  # type: ignore[arg-type]


def refused(text: str, **given: Any) -> str:
    with pytest.raises(ZskdError) as error:
        open_teacher(text, **given)
    message = str(error.value)
    assert "\n" not in message
    return message


def saved(folder: Path, name: str, **sizes: Any) -> Path:
    """Return a file with random weights of a network by name."""
    network = build(describe(name, **sizes), run_code=False)
    torch.save(network.state_dict(), folder / "w.pth")
    return folder / "w.pth"


def test_another_number_of_classes_is_told_with_what_to_write(tmp_path: Path) -> None:
    path = saved(tmp_path, "torchvision:squeezenet1_1", shape=(3, 64, 64), classes=10)
    words = f"{path} is for 10 classes (50 of the network's 52 tensors are there; classifier.1.weight is"
    written = "write torchvision:squeezenet1_1(dropout=0.1, num_classes=10)"
    told = refused(f"torchvision:squeezenet1_1(dropout=0.1)@{path}")
    assert told.startswith(words)
    assert told.endswith(f": {written}")
    assert refused(str(path), model="torchvision:squeezenet1_1(dropout=0.1)").endswith(f": {written}")
    path = saved(tmp_path, "resnet8", shape=(3, 8, 8), classes=10)
    told = refused(f"resnet8@{path}", class_names=("a", "b", "c"))
    assert told.startswith(f"{path} is for 10 classes (")
    assert told.endswith(": give 10 names with --class-names instead of 3, or none")


def test_another_architecture_is_named_where_the_user_may(tmp_path: Path) -> None:
    path = saved(tmp_path, "resnet8", shape=(3, 8, 8), classes=10)
    assert refused(str(path), model="vgg8").endswith("name the right one with --model")
    assert refused(f"vgg8@{path}").endswith("name the right one before the @")


def test_a_resnet18_for_cifar_is_not_called_that_of_torchvision(tmp_path: Path) -> None:
    """The names of github.com/kuangliu/pytorch-cifar."""
    names = {"conv1.weight": (64, 3, 3, 3), "linear.weight": (10, 512)}
    names |= {f"layer{n}.{k}.conv1.weight": (64, 64, 3, 3) for n in range(1, 5) for k in range(2)}
    names |= {"layer2.0.shortcut.0.weight": (128, 64, 1, 1)}
    torch.save({name: torch.zeros(shape) for name, shape in names.items()}, tmp_path / "ckpt.pth")
    assert "its names look like a ResNet for CIFAR: name" in refused(f"resnet8@{tmp_path / 'ckpt.pth'}")


def test_golden_pairs_hold_what_the_network_returns_after_its_named_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, inputs = Capped(), torch.rand(6, 1, 8, 8)
    teacher = Classifier(network, spec=SPEC, head="fc")
    assert not torch.allclose(teacher(inputs), network(inputs), rtol=0.1)
    save_file({"inputs": inputs, "logits": network(inputs).detach()}, tmp_path / "golden.safetensors")
    assert check_golden(teacher, tmp_path / "golden.safetensors").largest_difference < 1e-4
    wrong = Classifier(network, spec=InputSpec(shape=(1, 8, 8), mean=(0.5,)), head="fc")
    with pytest.raises(ZskdError, match="disagrees with the golden pairs"):
        check_golden(wrong, tmp_path / "golden.safetensors")


@pytest.mark.parametrize("parts", [("weight_g", "weight_v"), ("weight_orig", "weight_mask")], ids=str)
def test_weights_in_two_parts_tell_channels_and_classes(parts: tuple[str, str], tmp_path: Path) -> None:
    network = build(describe("vgg8", shape=(3, 32, 32), classes=7), run_code=False)
    state = {}
    for name, value in network.state_dict().items():
        if name.endswith(".weight") and value.ndim > 1:
            norm = value.flatten(1).norm(dim=1).view(-1, *[1] * (value.ndim - 1))
            pair = (norm, value) if parts[0] == "weight_g" else (value, torch.ones_like(value))
            state |= {name.replace("weight", part): one for part, one in zip(parts, pair, strict=True)}
        else:
            state[name] = value
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.pt")
    teacher, _ = open_teacher(f"vgg8@{tmp_path / 'w.pt'}")
    assert (teacher.spec.shape, teacher.classes) == ((3, 32, 32), 7)


def test_names_of_classes_may_lie_beside_weights_in_an_npz(tmp_path: Path) -> None:
    network = build(describe("resnet8", shape=(3, 32, 32), classes=2), run_code=False)
    arrays = {name: value.numpy() for name, value in network.state_dict().items()}
    np.savez(tmp_path / "w.npz", classes=np.array(["cat", "dog"]), **arrays)
    assert open_teacher(f"resnet8@{tmp_path / 'w.npz'}")[0].classes == 2
    np.savez(tmp_path / "text.npz", classes=np.array(["cat", "dog"]))
    told = refused(f"resnet8@{tmp_path / 'text.npz'}")
    assert "is a NumPy archive with no array of plain numbers: save" in told


def with_norm(norm: nn.Module) -> Classifier:
    layers = (nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    return Classifier(nn.Sequential(*layers), spec=SPEC)


def test_batch_norm_of_several_processes_is_batch_norm() -> None:
    norm = nn.SyncBatchNorm(4)
    assert norm.running_var is not None
    norm.running_var.fill_(1e-4)
    found = inspect_teacher(with_norm(norm))
    assert found.batch_norms == 1
    assert not any("no batch-norm" in one for one in found.warnings)
    assert any("the first batch-norm contradict mean" in one for one in found.warnings)


def test_batch_norm_without_running_statistics_is_not_counted() -> None:
    found = inspect_teacher(with_norm(nn.BatchNorm2d(4, track_running_stats=False)))
    assert found.batch_norms == 0
    assert any("no batch-norm with running statistics" in one for one in found.warnings)


OWN = """
from functools import partial

from torch import nn

def build(widths):
    assert isinstance(widths, list)
    layers = [nn.Conv2d(a, b, 1) for a, b in zip([1] + widths, widths)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 3))

narrow = partial(build, widths=[2])
"""


def test_a_long_list_in_a_name_is_a_list_whenever_it_is_built(tmp_path: Path) -> None:
    """The whole name is longer than a name of a file may be."""
    (tmp_path / "own_lists.py").write_text(OWN)
    name = f"{tmp_path / 'own_lists.py'}:build(widths={[2] * 100})"
    assert parse_source(name).arguments == {"widths": [2] * 100}
    teacher, card = open_teacher(name, shape=(1, 8, 8))
    save_checkpoint(teacher, card, tmp_path / "teacher")
    assert load_checkpoint(tmp_path / "teacher", model=name)[0].fingerprint() == teacher.fingerprint()
    assert "there is no file or folder" in refused("n" * 400)


def test_the_hash_of_a_part_of_a_function_is_that_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "own_parts.py"
    file.write_text(OWN)
    assert code_sha256(f"{file}:narrow") == code_sha256(f"{file}:build") == sha256_file(file)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"lr": 0.1, "epochs": 200}, "path"),
        ({"num_classes": 10}, "path"),
        ({"model_type": "vit"}, "hf"),
        ({"model_type": "vit", "architecture": "vit-base"}, "hf"),
        ({"architecture": "resnet10t", "num_classes": 3}, "timm"),
        ({"model_type": "timm_wrapper", "architecture": "resnet10t", "pretrained_cfg": {}}, "timm"),
    ],
)
def test_a_configuration_beside_weights_is_not_always_that_of_a_library(
    config: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert parse_source(str(tmp_path)).kind == kind


def test_a_folder_with_the_settings_of_a_script_holds_weights(tmp_path: Path) -> None:
    """So does PyTorchModelHubMixin write: the arguments of the class."""
    network = build(describe("resnet8", shape=(3, 32, 32), classes=5), run_code=False)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"depth": 8, "classes": 5}))
    assert open_teacher(tmp_path, model="resnet8")[0].classes == 5


# ------------------------------------------------------------------------------------- networks of libraries


def origins(text: str, **given: Any) -> dict[str, str]:
    return settle(find_network(parse_source(text), Given()).facts, Given(**given)).origins


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("torchvision:squeezenet1_1(num_classes=10)", "torchvision SqueezeNet1_1_Weights.IMAGENET1K_V1"),
        ("timm:test_resnet(num_classes=10)", "timm pretrained_cfg of test_resnet.r160_in1k"),
    ],
)
def test_what_is_assumed_of_an_own_file_is_told(name: str, library: str) -> None:
    told = origins(f"{name}@own.pth", std=(0.5,))
    assert told["shape"] == told["mean"] == f"{NOT_KNOWN}that of {library} is assumed"
    assert [line.split()[1] for line in Origin(facts=told).lines()] == ["shape", "mean"]


def test_weights_that_are_named_are_not_assumed_to_be_others() -> None:
    told = origins("torchvision:squeezenet1_1(weights=IMAGENET1K_V1)@copied.pth")
    told |= {"timm": origins("timm:test_resnet.r160_in1k@copied.pth")["mean"]}
    assert not [one for one in told.values() if one.startswith(NOT_KNOWN)]


def test_a_changed_input_of_googlenet_is_told() -> None:
    given = {"shape": (3, 64, 64), "mean": (0.5,), "std": (0.5,)}
    told = Origin(facts=origins("torchvision:googlenet@own.pth", **given)).lines()
    assert told == ["note: transform_input is not known: True is assumed, as for torchvision's own weights"]
    assert not Origin(facts=origins("torchvision:googlenet(transform_input=False)@own.pth", **given)).lines()


@pytest.mark.parametrize(("name", "size"), [("test_resnet", (1, 32, 32)), ("test_vit", (1, 32, 48))])
def test_a_folder_of_timm_with_an_input_of_its_own_is_opened_again(
    name: str, size: tuple[int, int, int], tmp_path: Path
) -> None:
    """Only its pretrained_cfg tells the input: older versions of timm save no arguments."""
    sides = {"img_size": size[1:]} if name == "test_vit" else {}
    timm = import_extra("timm")
    network = timm.create_model(name, num_classes=3, in_chans=1, **sides)
    timm.models.save_for_hf(network, tmp_path / "saved", safe_serialization=True)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    del config["model_args"]
    config["pretrained_cfg"] |= {"input_size": size, "fixed_input_size": name == "test_vit"}
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    teacher, card = open_teacher(tmp_path / "saved")
    assert teacher.spec.shape == size
    save_checkpoint(teacher, card, tmp_path / "teacher")
    assert load_checkpoint(tmp_path / "teacher")[0].fingerprint() == teacher.fingerprint()


def test_own_weights_of_a_network_that_takes_blue_first(tmp_path: Path) -> None:
    transformers = import_extra("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_labels=3, **small)
    network = transformers.ViTForImageClassification(config).eval()
    config.save_pretrained(tmp_path)
    sides = {"height": 8, "width": 8}
    transformers.MobileViTImageProcessor(size={"shortest_edge": 8}, crop_size=sides).save_pretrained(tmp_path)
    torch.save(network.state_dict(), tmp_path / "own.pt")
    teacher, card = open_teacher(f"hf:{tmp_path}@{tmp_path / 'own.pt'}")
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(teacher(images), network(images.flip(1)).logits)
    save_checkpoint(teacher, card, tmp_path / "teacher")
    assert load_checkpoint(tmp_path / "teacher")[0].fingerprint() == teacher.fingerprint()


@pytest.mark.parametrize("fixed", [False, True], ids=["any batch", "one image"])
def test_the_class_scores_of_an_onnx_file_may_stand_beside_features(fixed: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, path = Several().eval(), tmp_path / "net.onnx"
    axes = {} if fixed else {"images": {0: "batch"}}
    torch.onnx.export(
        network, (torch.rand(1, 1, 8, 8),), path, dynamo=False, input_names=["images"], dynamic_axes=axes
    )
    teacher, card = open_teacher(path)
    images = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(teacher(images), network(images)[2])
    assert (teacher.returned.part, teacher.returned.kind) == (2, "logits")
    assert open_teacher(path, class_names=tuple("abcd"))[0].class_names == tuple("abcd")
    save_checkpoint(teacher, card, tmp_path / "teacher")
    assert load_checkpoint(tmp_path / "teacher")[0].fingerprint() == teacher.fingerprint()


def test_logits_beside_their_softmax_are_the_class_scores() -> None:
    teacher = Classifier(Several(), spec=SPEC)
    assert (teacher.returned.part, teacher.classes) == (2, 4)
