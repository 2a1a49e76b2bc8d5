"""Exports, sources of libraries, files of weights and golden pairs of unusual kinds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zskd.core.errors import ZskdError
from zskd.core.extras import import_extra
from zskd.export.check import compare
from zskd.export.hub import export_hf
from zskd.models.checkpoint import Card, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe
from zskd.models.libraries.torchvision import TorchvisionNetwork, make_model
from zskd.teacher.golden import AT_ONCE, check_golden
from zskd.teacher.named.facts import Given, settle
from zskd.teacher.named.source import parse_source
from zskd.teacher.named.torchvision import with_weights
from zskd.teacher.opening import find_network, open_teacher
from zskd.teacher.recording import record_golden
from zskd.teacher.weights.matching import fit_weights
from zskd.teacher.weights.reading import read_weights

SPEC = InputSpec(shape=(1, 8, 8))


def images(count: int = 20, shape: tuple[int, int, int] = SPEC.shape) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


def refused(source: Any, **given: Any) -> str:
    with pytest.raises(ZskdError) as error:
        open_teacher(source, **given)
    assert "\n" not in str(error.value)
    return str(error.value)


def saved(model: str, path: Path, *, shape: tuple[int, int, int] = (1, 32, 32), classes: int = 10) -> Path:
    network = build(describe(model, shape=shape, classes=classes), run_code=False)
    save_file(network.state_dict(), path)
    return path


def linear(outputs: int = 3, *after: nn.Module, times: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    last = nn.Linear(64, outputs)
    last.weight.data *= times
    return nn.Sequential(nn.Flatten(), last, *after).eval()


# ---------------------------------------------------------------------------------------------- exports


def sure(outputs: int) -> Classifier:
    """A network whose sigmoids are anything from 0 to 1, and often near to one of them."""
    return Classifier(
        linear(outputs, nn.Sigmoid(), times=40), spec=InputSpec(shape=(1, 8, 8), mean=(0.5,))
    ).freeze()


def by_tanh(network: Classifier, some: Tensor) -> Tensor:
    """Logits of the sigmoids as onnxruntime computes them: right to a rounding of 1, not of themselves."""
    z = network.module[:2](network.normalise(some))  # type: ignore[index]
    return network.returned.logits((1 + (z / 2).tanh()) / 2, len(some))


@pytest.mark.parametrize("outputs", [1, 3])
def test_an_exported_sigmoid_may_be_rounded_and_must_be_that_of_the_network(outputs: int) -> None:
    network, x = sure(outputs), images(200)
    assert network.returned.kind == "sigmoids"
    logits = by_tanh(network, x)
    assert (logits - network(x)).abs().max() > 0.1
    found = compare(lambda some: by_tanh(network, some), network, x, what="a.onnx")
    assert 0 < found.difference < 1e-5 * found.largest
    for wrong in (lambda z: z * 1.01, lambda z: z.clamp(-5, 5), lambda z: z.flip(1), lambda z: z * torch.nan):
        with pytest.raises(ZskdError, match="a.onnx was not written"):
            compare(lambda some, wrong=wrong: wrong(network(some)), network, x, what="a.onnx")


@pytest.mark.parametrize("outputs", [1, 3])
def test_golden_sigmoids_may_be_rounded_and_must_be_those_of_the_network(
    outputs: int, tmp_path: Path
) -> None:
    network, x, path = sure(outputs), images(200), tmp_path / "pairs.npz"
    p = network.module(network.normalise(x))
    np.savez(path, inputs=x, logits=torch.where(p > 0.5, p.nextafter(torch.tensor(0.0)), p))
    check_golden(network, path)
    for wrong in (p.clamp(0.01, 0.99), p.flip(0), 1 - p):
        np.savez(path, inputs=x, logits=wrong)
        with pytest.raises(ZskdError, match="disagrees with the golden pairs"):
            check_golden(network, path)


def test_both_sides_of_a_comparison_get_the_same_batches() -> None:
    """Without running statistics, what a network returns depends on the batch."""
    torch.manual_seed(0)
    body = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.AdaptiveAvgPool2d(8)
    network = Classifier(
        nn.Sequential(*body, nn.Flatten(), nn.Linear(256, 3)).eval(), spec=InputSpec(shape=(1, 96, 96))
    ).freeze()
    sizes: set[int] = set()

    def run(some: Tensor) -> Tensor:
        sizes.add(len(some))
        return network(some)

    x = images(56, network.spec.shape)
    assert "in batches of 1, 3 and 28 its logits" in str(compare(run, network, x, what="a.onnx"))
    assert sizes == {1, 2, 3, 28}


# ---------------------------------------------------------------------------------------------- libraries


def test_the_card_tells_what_torchvision_adds_to_a_network_with_its_own_weights() -> None:
    with torch.device("meta"):  # as torchvision makes them where it loads their weights
        inception = make_model("inception_v3", weights=None, transform_input=True)
        large = make_model("vit_b_16", weights=None, image_size=384)
        usual = make_model("vit_b_16", weights=None)
        again = TorchvisionNetwork(
            torchvision="inception_v3", arguments=with_weights("inception_v3", inception)
        ).build()
    assert again.state_dict().keys() == inception.state_dict().keys()
    assert with_weights("vit_b_16", large) == {"image_size": 384}
    assert with_weights("vit_b_16", usual) == with_weights("resnet18", nn.Identity()) == {}


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def vit(folder: Path, *, processor: str | None = None, channels: int = 3, half: bool = False) -> nn.Module:
    import_extra("transformers")
    import transformers

    config = transformers.ViTConfig(image_size=32, patch_size=8, num_channels=channels, num_labels=3, **SMALL)
    torch.manual_seed(0)
    network: nn.Module = transformers.ViTForImageClassification(config).eval()
    (network.half() if half else network).save_pretrained(folder)
    for name, values in PROCESSORS.items():
        if name == processor:
            kind = "MobileViT" if "crop_size" in values else "ViT"
            getattr(transformers, f"{kind}ImageProcessor")(**values).save_pretrained(folder)
    return network


SQUARE = {"height": 32, "width": 32}
PROCESSORS: dict[str, dict[str, Any]] = {
    "resizes": {"size": SQUARE},
    "leaves the size": {"do_resize": False},
    "pads": {"size": {"shortest_edge": 24}, "crop_size": SQUARE},
}


def test_a_processor_that_leaves_the_size_as_it_is_tells_none(tmp_path: Path) -> None:
    vit(tmp_path, processor="leaves the size")
    found = settle(find_network(parse_source(str(tmp_path)), Given()).facts, Given())
    assert found.spec.shape == (3, 32, 32)
    assert found.origins["shape"] == "config.json image_size"
    assert found.origins["mean"] == "preprocessor_config.json"


@pytest.mark.parametrize(("processor", "channels"), [("pads", 3), ("resizes", 1), ("resizes", 4)])
def test_a_processor_that_cannot_be_measured_is_not_needed_where_all_is_told(
    processor: str, channels: int, tmp_path: Path
) -> None:
    vit(tmp_path, processor=processor, channels=channels)
    told: dict[str, Any] = {"shape": (channels, 32, 32), "mean": (0.5,)}
    assert refused(tmp_path, **told).endswith(": give --shape, --mean and --std")
    opened, card = open_teacher(tmp_path, **told, std=(0.2,))
    assert (opened.spec.shape, opened.spec.std) == ((channels, 32, 32), (0.2,))
    assert card.to_json()["architecture"].get("reversed_channels") is (processor == "pads")


def test_names_of_classes_by_number_are_those_of_a_folder_of_timm(tmp_path: Path) -> None:
    timm = import_extra("timm")
    network = timm.create_model("test_resnet", num_classes=3)
    for labels, names in (
        ({"2": "c", "0": "a", "1": "b"}, ("a", "b", "c")),
        ({"a": "x", "b": "y", "c": "z"}, None),
    ):
        folder = tmp_path / str(names is None)
        timm.models.save_for_hf(network, folder, model_config={"label_names": labels})
        found = find_network(parse_source(str(folder)), Given()).facts.class_names
        assert (found and found.value) == names


# ---------------------------------------------------------------------------------------- names and files


def test_a_folder_named_as_a_network_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved("lenet5", Path("w.safetensors"))
    Path("lenet5").mkdir()
    assert open_teacher("w.safetensors")[0].classes == 10
    assert open_teacher("w.safetensors", model="lenet5")[0].classes == 10


@pytest.mark.parametrize("model", ["vgg11", "timm:resnet18", "lenet5(norm=batch)", "no_network"])
def test_another_network_than_that_of_a_checkpoint_is_refused(model: str, tmp_path: Path) -> None:
    architecture = describe("lenet5", shape=(1, 32, 32), classes=3)
    teacher = Classifier(build(architecture, run_code=False), spec=InputSpec(shape=(1, 32, 32)))
    save_checkpoint(teacher, Card(architecture=architecture), tmp_path)
    assert refused(tmp_path, model=model).endswith(f"is a checkpoint of lenet5: leave out --model {model}")
    open_teacher(tmp_path, model="lenet5")
    open_teacher(tmp_path, model="of_a_student.py:build")  # commands name it for both


def test_two_names_fit_a_network_with_one_logit(tmp_path: Path) -> None:
    for classes in (1, 2):
        path = saved("lenet5", tmp_path / f"{classes}.safetensors", classes=classes)
        opened, _ = open_teacher(f"lenet5@{path}", class_names=("no", "yes"))
        assert (opened.class_names, opened.returned.width) == (("no", "yes"), classes)
    one = tmp_path / "1.safetensors"
    assert "give 2 names with --class-names" in refused(f"lenet5@{one}", class_names=("a", "b", "c"))


@pytest.mark.parametrize("network", ["lenet5", "mlp"])
def test_weights_for_images_of_another_size_ask_for_the_shape(network: str, tmp_path: Path) -> None:
    path = saved(network, tmp_path / "w.safetensors", shape=(1, 28, 28))
    told = refused(f"{network}@{path}")
    assert "is for images of another size (" in told
    assert told.endswith(": tell the size of its images with --shape")
    open_teacher(f"{network}@{path}", shape=(1, 28, 28))
    assert "another architecture" in refused(f"vgg8@{path}")


def test_a_folder_for_the_hub_is_opened_as_it_was(tmp_path: Path) -> None:
    spec = InputSpec(shape=(1, 28, 28), mean=(0.1,), std=(0.3,))
    architecture = describe("lenet5", shape=spec.shape, classes=2)
    network = Classifier(build(architecture, run_code=False), spec=spec, class_names=("a", "b")).freeze()
    folder = tmp_path / "hub"
    export_hf(network, Card(architecture=architecture), folder, images=images(4, spec.shape))
    opened, card = open_teacher(folder)
    assert opened.fingerprint() == network.fingerprint()
    assert card.origin.facts == dict.fromkeys(
        ("shape", "mean", "std", "class_names"), "config.json of zskd export"
    )
    assert open_teacher(folder, mean=(0.5,))[0].spec.mean == (0.5,)
    assert "leave out --model vgg11" in refused(folder, model="vgg11")

    config = json.loads((folder / "config.json").read_text("utf-8"))
    # the name of a copy tells too little
    (folder / "config.json").write_text(json.dumps(config | {"architecture": "narrow:0.5 of a"}), "utf-8")
    assert open_teacher(folder, model="lenet5")[0].fingerprint() == network.fingerprint()
    assert "open its checkpoint folder, export that with --to onnx and open the file" in refused(folder)
    (folder / "config.json").write_text(json.dumps(config | {"preprocessing": {"shape": 3}}), "utf-8")
    assert refused(folder).endswith("export the network again")


def test_an_index_with_lists_instead_of_names_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"fc.weight": ["a"]}}), "utf-8")
    with pytest.raises(ZskdError, match="names a file outside of its folder"):
        read_weights(path)


def test_a_momentum_encoder_is_a_network(tmp_path: Path) -> None:
    network = linear()
    for key, works in (("momentum_encoder", True), ("momentum_buffer", False)):
        torch.save({key: network.state_dict()}, tmp_path / "w.pt")
        file = read_weights(tmp_path / "w.pt")
        if works:
            assert f"took '{key}'" in fit_weights(network, file).summary
        else:
            with pytest.raises(ZskdError):
                fit_weights(network, file)


# ---------------------------------------------------------------------------------------------- golden pairs


def by_torch(folder: Path) -> str:
    network = build(describe("lenet5", shape=(1, 32, 32), classes=3), run_code=False)
    torch.save(network.bfloat16().state_dict(), folder / "w.pt")
    return f"lenet5@{folder / 'w.pt'}"


def by_transformers(folder: Path) -> str:
    vit(folder, processor="resizes", half=True)
    return str(folder)


@pytest.mark.parametrize(("made", "dtype"), [(by_torch, torch.bfloat16), (by_transformers, torch.float16)])
def test_golden_pairs_that_agree_at_the_import_agree_with_the_checkpoint(
    made: Callable[[Path], str], dtype: torch.dtype, tmp_path: Path
) -> None:
    source, pairs, epsilon = made(tmp_path), tmp_path / "pairs.npz", torch.finfo(dtype).eps
    classifier, card = open_teacher(source)
    x = images(4, classifier.spec.shape)
    logits = classifier(x) + 3 * epsilon  # more than single precision allows
    np.savez(pairs, inputs=x, logits=logits)
    classifier, card = open_teacher(source, golden=pairs)
    assert card.origin.epsilon == epsilon
    save_checkpoint(classifier, card, tmp_path / "kept")
    assert open_teacher(tmp_path / "kept", golden=pairs)[1].golden == card.golden
    np.savez(pairs, inputs=x, logits=logits + 3 * epsilon)
    assert "disagrees" in refused(tmp_path / "kept", golden=pairs)


def test_the_card_of_weights_in_single_precision_is_as_before(tmp_path: Path) -> None:
    _, card = open_teacher(f"lenet5@{saved('lenet5', tmp_path / 'w.safetensors')}")
    assert "epsilon" not in card.to_json()["origin"]


def test_golden_pairs_are_known_by_their_content_and_compared_in_parts(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Counts(nn.Flatten):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return super().forward(x)

    network = linear()
    network[0] = Counts()  # type: ignore[operator]
    teacher = Classifier(network, spec=SPEC)
    record_golden(teacher, images(2 * AT_ONCE + 1), tmp_path / "pairs.dat")
    assert check_golden(teacher, tmp_path / "pairs.dat").pairs == 2 * AT_ONCE + 1
    assert max(sizes) == AT_ONCE


# ---------------------------------------------------------------------------------------------- classifiers


class KeepsMore(nn.Linear):
    """Has state that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


def test_state_that_is_no_tensor_is_refused_in_one_line(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), KeepsMore(64, 3))
    teacher = Classifier(network, spec=SPEC)
    card = Card(architecture=describe("lenet5", shape=(1, 32, 32), classes=3))
    torch.save(linear().state_dict(), tmp_path / "w.pt")
    for work in (
        teacher.fingerprint,
        lambda: save_checkpoint(teacher, card, tmp_path / "kept"),
        lambda: fit_weights(network, read_weights(tmp_path / "w.pt")),
    ):
        with pytest.raises(ZskdError, match=r"keeps 1\._extra_state \(dict\) beside its tensors: give one"):
            work()
    assert not (tmp_path / "kept" / "card.json").exists()


def test_lists_of_an_input_are_kept_as_tuples() -> None:
    given, spec = InputSpec(shape=(1, 8, 8), mean=(0.5,), std=(1,)), object.__new__(InputSpec)
    for name, value in vars(given).items():  # the tests' checker of types lets no list through
        object.__setattr__(spec, name, list(value))
    spec.__post_init__()
    assert repr(spec) == repr(given)
    assert Classifier(linear(), spec=spec).fingerprint() == Classifier(linear(), spec=given).fingerprint()
