"""Teachers by name, on networks that the real libraries make and save; nothing is downloaded."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from zskd.core.artefact import parse
from zskd.core.errors import ZskdError
from zskd.core.extras import EXTRAS, import_extra
from zskd.models.checkpoint import NOT_KNOWN, Card, load_checkpoint, read_card, save_checkpoint
from zskd.models.classifier import Classifier
from zskd.models.factory import build, fresh_weights
from zskd.models.libraries.onnx import ONNX, ConvertedOnnx, OnnxNetwork
from zskd.models.libraries.timm import TimmNetwork
from zskd.models.libraries.torchvision import TorchvisionNetwork
from zskd.models.libraries.transformers import TransformersNetwork
from zskd.teacher.named.facts import Facts, Given, settle
from zskd.teacher.named.source import parse_source
from zskd.teacher.opening import find_network, open_teacher

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch's older exporter of ONNX
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]
import_extra("timm")
import_extra("transformers")

import timm
import transformers
from torchvision import models

FILES = Path(__file__).resolve().parents[1] / "files" / "onnx"
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def opened(text: str, **given: Any) -> tuple[Classifier, Card]:
    return open_teacher(text, **given)


def refused(text: str, **given: Any) -> str:
    with pytest.raises(ZskdError) as error:
        opened(text, **given)
    message = str(error.value)
    assert "\n" not in message
    return message


def images(shape: tuple[int, ...], count: int = 3) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def same_after_saving(classifier: Classifier, card: Card, folder: Path) -> None:
    """A checkpoint is enough to build the network again."""
    save_checkpoint(classifier, card, folder)
    again, stored = load_checkpoint(folder)
    assert again.fingerprint() == classifier.fingerprint()
    assert stored.origin.facts == card.origin.facts
    x = images(classifier.spec.shape)
    with torch.no_grad():
        assert torch.equal(again.freeze()(x), classifier(x))


# ---------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "kind", "name", "arguments", "weights"),
    [
        ("timm:resnet18", "timm", "resnet18", {}, None),
        ("timm:resnet18.a1_in1k@w.pth", "timm", "resnet18.a1_in1k", {}, "w.pth"),
        (
            "timm:vit(img_size=(64, 64), norm=batch)",
            "timm",
            "vit",
            {"img_size": (64, 64), "norm": "batch"},
            None,
        ),
        ("timm:hf-hub:timm/resnet18@main", "timm", "hf-hub:timm/resnet18@main", {}, None),
        ("timm:local-dir:a(b)/c(num_classes=3)", "timm", "local-dir:a(b)/c", {"num_classes": 3}, None),
        ("torchvision:resnet18(weights=V1)", "torchvision", "resnet18", {"weights": "V1"}, None),
        ("hf:folder", "hf", "folder", {}, None),
        ("hf:folder@w.safetensors", "hf", "folder", {}, "w.safetensors"),
        ("onnx:a/net.onnx", "onnx", "a/net.onnx", {}, None),
        ("a/net.onnx", "onnx", "a/net.onnx", {}, None),
        (
            "/data/me@work/net.py:make(depth=20)@b.pth.tar",
            "code",
            "/data/me@work/net.py:make",
            {"depth": 20},
            "b.pth.tar",
        ),
        ("package.module:Net", "code", "package.module:Net", {}, None),
        ("package.module:Net.small(wide=True)", "code", "package.module:Net.small", {"wide": True}, None),
        ("teacher/", "path", "teacher/", {}, None),
    ],
)
def test_what_a_user_types(
    text: str, kind: str, name: str, arguments: dict[str, Any], weights: str | None
) -> None:
    found = parse_source(text)
    assert (found.kind, found.name, found.arguments) == (kind, name, arguments)
    assert found.weights == (Path(weights) if weights else None)


@pytest.mark.parametrize(
    "text", ["timm:", "foo:bar baz", "timm:resnet18(10)", "net.py:make(depth=f())", "net.py:make(depth=)"]
)
def test_what_cannot_be_read_is_said_in_one_line(text: str) -> None:
    with pytest.raises(ZskdError) as error:
        parse_source(text)
    assert "\n" not in str(error.value)


def test_no_library_is_imported_before_it_is_named() -> None:
    check = "import sys, zskd.teacher.opening; print(sorted(sys.modules.keys() & set(sys.argv[1:])))"
    done = subprocess.run([sys.executable, "-c", check, *EXTRAS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("library", EXTRAS)
def test_a_missing_library_gives_the_pip_line(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # what Python does for an import that is to fail
    with pytest.raises(ZskdError, match=rf"pip install 'zskd\[{EXTRAS[library]}\]'"):
        import_extra(library)


def test_what_the_user_tells_holds_and_the_card_says_so() -> None:
    found = settle(Facts(), Given(shape=(1, 8, 8), mean=(0.5,)))
    assert found.spec.mean == (0.5,)
    assert found.origins["mean"] == "given by --mean"
    assert found.origins["std"].startswith(NOT_KNOWN)
    with pytest.raises(ZskdError, match="--shape 3 224 224"):
        settle(Facts(), Given())


# ---------------------------------------------------------------------------------------------- timm


def timm_weights(folder: Path, name: str, **arguments: Any) -> tuple[nn.Module, Path]:
    network = fresh_weights(lambda: timm.create_model(name, **arguments), seed=0).eval()
    torch.save(network.state_dict(), folder / "w.pth")
    return network, folder / "w.pth"


def test_a_timm_network_with_a_file_of_weights(tmp_path: Path) -> None:
    network, path = timm_weights(tmp_path, "resnet10t", num_classes=7)
    classifier, card = opened(f"timm:resnet10t(num_classes=7)@{path}", shape=(3, 64, 64), mean=(0.5,))
    x = images((3, 64, 64))
    std = torch.tensor(timm.data.resolve_model_data_config(network)["std"]).view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(classifier(x), network((x - 0.5) / std))
    assert card.origin.facts["shape"] == "given by --shape"
    assert card.origin.facts["mean"] == "given by --mean"
    assumed = "is not known: that of timm pretrained_cfg of resnet10t.c3_in1k is assumed"
    assert card.origin.facts["std"] == assumed
    assert card.origin.source.startswith("timm:resnet10t(num_classes=7)@")
    same_after_saving(classifier, card, tmp_path / "teacher")


def test_facts_of_timm_follow_the_arguments_of_the_network() -> None:
    source = parse_source("timm:vit_tiny_patch16_224(num_classes=10, img_size=32, in_chans=1, depth=1)@w.pth")
    facts = find_network(source, Given()).facts
    assert facts.shape.value == (1, 32, 32)
    assert facts.mean is None  # three values do not describe one channel


def test_a_folder_that_timm_saved(tmp_path: Path) -> None:
    network = fresh_weights(lambda: timm.create_model("resnet10t", num_classes=3), seed=0)
    labels = {"label_names": ["a", "b", "c"], "label_descriptions": {"a": "ape", "b": "bee", "c": "cat"}}
    timm.models.save_for_hf(network, tmp_path / "saved", model_config=labels, safe_serialization=True)
    classifier, card = opened(f"{tmp_path / 'saved'}", shape=(3, 32, 32))
    assert classifier.class_names == ("ape", "bee", "cat")
    assert card.origin.facts["class_names"] == "timm pretrained_cfg label_descriptions"
    assert (classifier.spec.mean, classifier.spec.std) == IMAGENET
    same_after_saving(classifier, card, tmp_path / "teacher")
    (tmp_path / "saved" / "model.safetensors").unlink()
    assert "cannot be had" in refused(f"timm:local-dir:{tmp_path / 'saved'}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("timm:resnet10s", "did you mean timm:resnet"),
        ("timm:resnet10t.nope@w.pth", "no weights 'resnet10t.nope'"),
        ("timm:resnet10t(num_clases=3)@w.pth", "num_clases"),
        ("timm:resnet10t(num_classes=3)", "for 1000 classes, and the layer for 3 would be random"),
        ("timm:resnet10t(checkpoint_path=x)", "name a file of weights after @"),
        ("timm:resnet10t(num_classes=7)@nowhere.pth", "there is no file nowhere.pth"),
        ("timm:local-dir:nowhere", "has no config.json"),
    ],
)
def test_wrong_names_of_timm(text: str, words: str) -> None:
    assert words in refused(text)


# ---------------------------------------------------------------------------------------------- torchvision


def cache_weights(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> nn.Module:
    """Put random weights where torchvision keeps those that it has downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(folder))
    network: nn.Module = fresh_weights(lambda: models.get_model(name, weights=None, **arguments), seed=0)
    url = models.get_model_weights(name).DEFAULT.url
    path = folder / "hub" / "checkpoints" / url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    return network.eval()


def test_a_torchvision_network_with_its_own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = cache_weights(tmp_path, "mobilenet_v3_small", monkeypatch)
    classifier, card = opened("torchvision:mobilenet_v3_small", shape=(3, 32, 32))
    assert classifier.class_names[:2] == ("tench", "goldfish")
    assert card.origin.facts["class_names"] == (
        "torchvision MobileNet_V3_Small_Weights.IMAGENET1K_V1 categories"
    )
    x = images((3, 32, 32))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
    with torch.no_grad():
        torch.testing.assert_close(classifier(x), network((x - mean) / std), rtol=1e-4, atol=1e-5)
    same_after_saving(classifier, card, tmp_path / "teacher")


def test_googlenet_changes_its_input_with_its_own_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_weights(tmp_path, "googlenet", monkeypatch, init_weights=False)
    classifier, card = opened("torchvision:googlenet", shape=(3, 64, 64))
    with torch.no_grad():
        x = images((3, 64, 64))
        torch.testing.assert_close(
            classifier(x), models.googlenet(weights="DEFAULT").eval()(classifier.normalise(x))
        )
    same_after_saving(classifier, card, tmp_path / "teacher")
    # the same file given by hand
    (file,) = tmp_path.rglob("googlenet*.pth")
    given, _ = opened(f"torchvision:googlenet(aux_logits=False)@{file}", shape=(3, 64, 64))
    torch.testing.assert_close(given(x), classifier(x))


def test_other_weights_and_other_classes(tmp_path: Path) -> None:
    network = fresh_weights(lambda: models.resnet18(num_classes=10), seed=0)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "w.pth")
    classifier, card = opened(f"torchvision:resnet18(num_classes=10)@{tmp_path / 'w.pth'}", shape=(3, 32, 32))
    assert classifier.class_names == tuple("0123456789")
    assert card.origin.facts["class_names"].startswith(NOT_KNOWN)
    assert "(11, 512)" in refused(f"torchvision:resnet18(num_classes=11)@{tmp_path / 'w.pth'}")


@pytest.mark.parametrize("text", ["torchvision:resnet18", "timm:resnet10t"])
def test_weights_that_cannot_be_downloaded(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert f"name a file of weights: {text}@FILE" in refused(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("torchvision:resnet81", "did you mean torchvision:resnet18?"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no network 'fasterrcnn_resnet50_fpn'"),
        ("torchvision:resnet18(weights=IMAGENET1K_V3)", "did you mean IMAGENET1K_V1?"),
        ("torchvision:resnet18(weights_backbone=x)@w.pth", "name a file of weights after @"),
        ("torchvision:resnet18(depth=3)@w.pth", "depth"),
    ],
)
def test_wrong_names_of_torchvision(text: str, words: str) -> None:
    assert words in refused(text)


# ---------------------------------------------------------------------------------------------- transformers

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}


def save_vit(folder: Path, kind: Callable[..., Any] = transformers.ViTForImageClassification) -> nn.Module:
    labels = {0: "cat", 1: "dog", 2: "owl"}
    config = transformers.ViTConfig(image_size=32, patch_size=8, id2label=labels, **SMALL)
    network: nn.Module = fresh_weights(lambda: kind(config), seed=0).eval()
    network.save_pretrained(folder)
    return network


@pytest.mark.parametrize(
    "processor",
    [
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6]),
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False),
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}, do_rescale=False),
        transformers.EfficientNetImageProcessor(size={"height": 32, "width": 32}, image_std=[0.4, 0.5, 0.6]),
        transformers.EfficientNetImageProcessor(
            size={"height": 32, "width": 32},
            rescale_offset=True,
            rescale_factor=1 / 127.5,
            do_normalize=False,
        ),
        transformers.MobileViTImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
    ],
    ids=["vit", "not-normalised", "not-rescaled", "twice", "offset", "reversed"],
)
def test_a_folder_of_transformers_sees_what_its_processor_makes(processor: Any, tmp_path: Path) -> None:
    network = save_vit(tmp_path)
    processor.save_pretrained(tmp_path)
    found = find_network(parse_source(str(tmp_path)), Given())
    settled = settle(found.facts, Given())
    assert settled.spec.shape == (3, 32, 32)
    assert settled.class_names == ("cat", "dog", "owl")
    assert settled.origins["mean"] == "preprocessor_config.json"
    assert settled.origins["class_names"] == "config.json id2label"

    pixels = torch.randint(
        0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (settled.spec.mean, settled.spec.std))
    prepared = processor(list(pixels), return_tensors="pt")["pixel_values"].float()
    ours = (pixels / 255 - mean) / std
    found.module.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            found.module(ours).logits, network(pixel_values=prepared).logits, rtol=1e-4, atol=1e-4
        )

    stored = json.loads(json.dumps(found.architecture.to_json()))
    again = build(parse(stored, TransformersNetwork, "it", "no"), run_code=False).eval()
    again.load_state_dict(found.module.state_dict())
    with torch.no_grad():
        assert torch.equal(again(ours).logits, found.module(ours).logits)


def test_without_a_processor_the_configuration_tells_the_size(tmp_path: Path) -> None:
    save_vit(tmp_path)
    facts = find_network(parse_source(f"hf:{tmp_path}"), Given()).facts
    assert (facts.shape.value, facts.shape.origin) == ((3, 32, 32), "config.json image_size")
    assert facts.mean is None


def test_a_folder_without_a_head_or_of_another_task_is_refused(tmp_path: Path) -> None:
    save_vit(tmp_path / "backbone", transformers.ViTModel)
    assert "lack 2 tensors" in refused(f"hf:{tmp_path / 'backbone'}")
    transformers.BertConfig(**SMALL).save_pretrained(tmp_path / "text")
    assert "no network for image classification of type 'bert'" in refused(f"hf:{tmp_path / 'text'}")
    save_vit(tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"cut")
    assert "cannot read the weights" in refused(f"hf:{tmp_path / 'cut'}")


def test_code_in_a_folder_of_transformers_is_not_run(tmp_path: Path) -> None:
    save_vit(tmp_path)
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    path = tmp_path / "config.json"
    named = {"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.Model"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": named}))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own.Processor"}})
    )
    assert "cannot read" in refused(f"hf:{tmp_path}")
    (tmp_path / "preprocessor_config.json").unlink()
    find_network(parse_source(f"hf:{tmp_path}"), Given())
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------------------------------------- cards


@pytest.mark.parametrize(
    "architecture",
    [
        TimmNetwork(timm="hf-hub:timm/resnet18"),
        TimmNetwork(timm="local-dir:/tmp"),
        TimmNetwork(timm="resnet10t", arguments={"checkpoint_path": "x"}),
        TimmNetwork(timm="resnet10t", arguments={"pretrained_cfg": {"file": "x"}, "pretrained": True}),
        TorchvisionNetwork(torchvision="resnet18", arguments={"weights": "DEFAULT"}),
        TorchvisionNetwork(torchvision="get_model", arguments={"name": "resnet18"}),
        TransformersNetwork(transformers="timm_wrapper", config={"architecture": "hf-hub:timm/resnet18"}),
        TransformersNetwork(transformers="bert", config={}),
        OnnxNetwork(onnx_sha256="0" * 64),
    ],
    ids=str,
)
def test_a_card_reads_no_other_file(architecture: Any) -> None:
    with pytest.raises(ZskdError):
        build(architecture, run_code=False)


# ---------------------------------------------------------------------------------------------- ONNX


class Small(nn.Module):
    """Batch-norm after a concatenation, which no exporter folds, and a head on three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1, stride=2)
        self.right = nn.Conv2d(3, 4, 1, stride=2, groups=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-0.2, 0.2)
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(x)], 1).relu()
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return self.head(tokens).mean(1)


def export(network: nn.Module, path: Path, **options: Any) -> Path:
    axes = {"images": {0: "batch"}}
    torch.onnx.export(
        network.eval(),
        (torch.zeros(1, 3, 16, 16),),
        path,
        **{"dynamo": False, "input_names": ["images"], "dynamic_axes": axes} | options,
    )
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"opset_version": 11},
        {"opset_version": 17},
        {"do_constant_folding": False},
    ],
    ids=["opset 11", "opset 17", "not folded"],
)
def test_an_onnx_file_becomes_the_network_that_it_was_made_of(
    options: dict[str, Any], tmp_path: Path
) -> None:
    network = fresh_weights(Small, seed=0).eval()
    path = export(network, tmp_path / "net.onnx", **options)
    found = find_network(parse_source(str(path)), Given())
    x = images((3, 16, 16))
    made = found.module
    torch.testing.assert_close(made(x), network(x), rtol=1e-4, atol=1e-5)
    kinds = [type(layer) for layer in made.modules()]
    assert (kinds.count(nn.Conv2d), kinds.count(nn.BatchNorm2d), kinds.count(nn.Linear)) == (2, 1, 1)
    (head,) = (layer for layer in made.modules() if isinstance(layer, nn.Linear))
    torch.testing.assert_close(head.weight, network.head.weight)
    torch.testing.assert_close(head.bias, network.head.bias)
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in network.parameters())
    x.requires_grad_()
    made(x).square().sum().backward()
    (gradient,) = torch.autograd.grad(network(x).square().sum(), x)
    torch.testing.assert_close(x.grad, gradient, rtol=1e-3, atol=1e-5)
    assert found.facts.others["conversion"].startswith("onnx2fx; agrees with onnxruntime")


def test_a_file_of_the_newer_exporter_of_torch() -> None:
    """`Small`, written by the dynamo exporter of torch 2.13; opening compares it with onnxruntime."""
    found = find_network(parse_source(str(FILES / "torch-2.13-opset-20.onnx")), Given())
    kinds = [type(layer) for layer in found.module.modules()]
    assert (kinds.count(nn.Conv2d), kinds.count(nn.BatchNorm2d), kinds.count(nn.Linear)) == (2, 1, 1)
    assert found.module(images((3, 16, 16), 5)).shape == (5, 5)


class Flat(nn.Sequential):
    """Its export holds the number of images in a reshape."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 2, 3, stride=4), nn.BatchNorm2d(2), nn.ReLU())
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self[2](self[1](self[0](x)))
        return self.head(x.reshape(int(x.shape[0]), 32))


@pytest.mark.parametrize("count", [1, 4])
def test_a_file_of_a_fixed_batch_takes_any_batch(count: int, tmp_path: Path) -> None:
    network = fresh_weights(Flat, seed=0).eval()
    torch.onnx.export(network, (torch.zeros(count, 3, 16, 16),), tmp_path / "net.onnx", dynamo=False)
    classifier, card = opened(f"onnx:{tmp_path / 'net.onnx'}")
    assert classifier.module.file_batch == count
    assert classifier.module.batch is None  # the reshape was repaired
    x = images((3, 16, 16), 7)
    torch.testing.assert_close(classifier(x), network(x), rtol=1e-4, atol=1e-5)
    same_after_saving(classifier, card, tmp_path / "teacher")
    pickled = pickle.loads(pickle.dumps(classifier))
    assert pickled.fingerprint() == classifier.fingerprint()
    assert not any(p.requires_grad for p in pickled.parameters())


@pytest.mark.parametrize("count", [1, 4])
def test_a_file_whose_batch_cannot_be_opened_runs_in_batches(count: int, tmp_path: Path) -> None:
    """A token for each image is held as so many copies, as in exports of vision transformers."""
    token = numpy_helper.from_array(np.full((count, 1, 4, 4), 2, np.float32), "t")
    model = hand_made(
        [count, 2, 4, 4], [helper.make_node("Concat", ["x", "t"], ["j"], axis=1), JOINED, PRODUCT, SUM]
    )
    model.graph.initializer.append(token)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    found = find_network(parse_source(f"onnx:{tmp_path / 'net.onnx'}"), Given())
    assert found.module.batch == count
    x = images((2, 4, 4), 7)
    expected = (x.sum((1, 2, 3)) + 32) * 0.5 + 1
    torch.testing.assert_close(found.module(x), expected[:, None].expand(7, 2))


def test_a_checkpoint_keeps_the_onnx_file_and_notices_another(tmp_path: Path) -> None:
    export(fresh_weights(Flat, seed=0), tmp_path / "net.onnx")
    classifier, card = opened(f"onnx:{tmp_path / 'net.onnx'}")
    folder = save_checkpoint(classifier, card, tmp_path / "teacher")
    assert read_card(folder).origin.file == "net.onnx"
    (folder / ONNX).write_bytes(export(fresh_weights(Flat, seed=1), tmp_path / "other.onnx").read_bytes())
    with pytest.raises(ZskdError, match="not the file of its card"):
        load_checkpoint(folder)
    (folder / ONNX).unlink()
    with pytest.raises(ZskdError, match="copy the whole folder again"):
        load_checkpoint(folder)


def hand_made(
    shape: list[Any],
    nodes: list[Any],
    *,
    kind: int = TensorProto.FLOAT,
    second: bool = False,
    opset: int = 17,
) -> onnx.ModelProto:
    weights = [
        numpy_helper.from_array(np.full((48, 2), 0.5, np.float32), "w"),
        numpy_helper.from_array(np.ones(2, np.float32), "b"),
        numpy_helper.from_array(np.ones(3, np.float32), "c"),
    ]
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", "z")[: 1 + second]]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=8)


FLAT = helper.make_node("Flatten", ["x"], ["f"])
JOINED = helper.make_node("Flatten", ["j"], ["f"])
PRODUCT = helper.make_node("MatMul", ["f", "w"], ["p"])
SUM = helper.make_node("Add", ["b", "p"], ["y"])


def test_channels_last_and_a_head_of_product_and_sum(tmp_path: Path) -> None:
    """As tf2onnx writes a network of Keras."""
    onnx.save(hand_made(["n", 4, 4, 3], [FLAT, PRODUCT, SUM]), tmp_path / "net.onnx")
    classifier, card = opened(f"onnx:{tmp_path / 'net.onnx'}")
    assert classifier.spec.shape == (3, 4, 4)
    x = images((3, 4, 4))
    torch.testing.assert_close(classifier(x), (x.sum((1, 2, 3)) * 0.5 + 1)[:, None].expand(3, 2))
    assert classifier.head.bias is not None
    same_after_saving(classifier, card, tmp_path / "teacher")


def test_open_sides_need_a_shape(tmp_path: Path) -> None:
    onnx.save(hand_made(["n", 3, "h", "w"], [FLAT, PRODUCT, SUM]), tmp_path / "net.onnx")
    assert "leaves height, width of its images open: give --shape" in refused(f"onnx:{tmp_path / 'net.onnx'}")
    classifier, card = opened(f"onnx:{tmp_path / 'net.onnx'}", shape=(3, 4, 4))
    assert card.origin.facts["shape"] == "given by --shape"
    same_after_saving(classifier, card, tmp_path / "teacher")


TRAINING = helper.make_node("BatchNormalization", ["x", "c", "c", "c", "c"], ["y", "m", "v"], training_mode=1)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (hand_made(["n", 3, 4, 4], [FLAT, PRODUCT, SUM], kind=TensorProto.UINT8), "takes uint8, not float"),
        (hand_made(["n", 3, 4, 4], [FLAT, PRODUCT, SUM], second=True), "takes 2 inputs (x, z)"),
        (hand_made(["n", 48], [PRODUCT, SUM]), "takes inputs of 2 dimensions, not images"),
        (
            hand_made(["n", 3, 4, 4], [helper.make_node("Own", ["x"], ["y"], domain="own")]),
            "cannot convert the operator Own of opset 1",
        ),
        (hand_made(["n", 3, 4, 4], [TRAINING]), "call model.eval() and export it again"),
    ],
    ids=["uint8", "two inputs", "no images", "operator", "training"],
)
def test_onnx_files_that_are_no_teacher(model: onnx.ModelProto, words: str, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert words in refused(f"onnx:{tmp_path / 'net.onnx'}")


def test_files_that_are_no_onnx(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no protocol buffer")
    assert "no complete ONNX file" in refused(f"onnx:{tmp_path / 'net.onnx'}")
    assert "there is no file" in refused("onnx:nowhere.onnx")
    model = hand_made(["n", 3, 4, 4], [FLAT, PRODUCT, SUM])
    onnx.save(model, tmp_path / "big.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(ZskdError, match="refers to weights in other files"):
        ConvertedOnnx((tmp_path / "big.onnx").read_bytes(), "big.onnx")
    assert opened(f"onnx:{tmp_path / 'big.onnx'}")[0].classes == 2
    (tmp_path / next(p.name for p in tmp_path.iterdir() if p.suffix != ".onnx")).unlink()
    assert "no complete ONNX file" in refused(f"onnx:{tmp_path / 'big.onnx'}")


# ---------------------------------------------------------------------------------------------- own code

CODE = """
from torch import nn

def make(width=4, *, classes=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(48, width), nn.ReLU(), nn.Linear(width, classes))
"""


def test_own_code_with_arguments_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_named.py").write_text(CODE)
    name = f"{tmp_path / 'own_named.py'}:make"
    network = find_network(parse_source(f"{name}(width=6)"), Given()).module
    torch.save(network.state_dict(), tmp_path / "w.pth")
    classifier, card = opened(f"{name}(width=6)@{tmp_path / 'w.pth'}", shape=(3, 4, 4))
    with torch.no_grad():
        x = images((3, 4, 4))
        assert torch.equal(classifier(x), network(x))
    assert card.architecture.factory == f"{name}(width=6)"
    assert len(card.architecture.code_sha256) == 64
    save_checkpoint(classifier, card, tmp_path / "teacher")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of somebody else"))
    with pytest.raises(ZskdError, match="a card may not run code"):
        load_checkpoint(tmp_path / "teacher")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("make(depth=3)", "(width=4, *, classes=3) cannot be called so"),
        ("make(width=no)", "cannot build"),
        ("nn", "is no function or class"),
        ("absent", "cannot import"),
    ],
)
def test_wrong_calls_of_own_code(call: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "own_wrong.py").write_text(CODE)
    assert words in refused(f"{tmp_path / 'own_wrong.py'}:{call}", shape=(3, 4, 4))


def test_a_tag_of_timm_with_other_classes_is_built_again_with_them() -> None:
    tagged = find_network(parse_source("timm:vit_tiny_patch16_224.augreg_in21k@w.pt"), Given())
    assert tagged.architecture.build().num_classes == tagged.module.num_classes == 21843
    plain = find_network(parse_source("timm:resnet18.a1_in1k@w.pt"), Given())
    assert plain.architecture == find_network(parse_source("timm:resnet18@w.pt"), Given()).architecture
