"""Networks as files for other programs: each is read by the library that users read it with, and compared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from conftest import files_of_at_most
from limits import LIMIT
from small_networks import Tokens
from zskd.cli.main import main
from zskd.core.errors import ZskdError
from zskd.core.extras import import_extra
from zskd.export import check
from zskd.export.check import compare
from zskd.export.folder import export_torch
from zskd.export.hub import export_hf
from zskd.export.int8 import export_onnx_int8
from zskd.export.onnx import export_onnx, onnx_model
from zskd.export.pt2 import DESCRIPTION, export_pt2
from zskd.models.checkpoint import Card, Origin
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.exported import ExportedNetwork
from zskd.models.factory import Factory, fresh_weights
from zskd.models.libraries.timm import TimmNetwork
from zskd.run.summary import checkpoint_results
from zskd.transfer_set.dataset import TransferSet

SPEC = InputSpec(shape=(3, 16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
NAMES = ("cat", "dog", "Löwe, klein", "T-shirt/top", '"')
BATCHES = (1, 7)


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_PICTURES", 70)


class Chain(nn.Module):
    """Convolution, batch-norm and pooling, which are fused where the network holds no constant of its own."""

    def __init__(self, after: Callable[[Tensor], object], constant: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.pool, self.last = nn.MaxPool2d(2), nn.Linear(4 * 64, 5)
        self.after = after
        if constant:
            self.register_buffer("places", torch.linspace(0, 1, 64).view(8, 8), persistent=False)

    def forward(self, images: Tensor) -> object:
        values = self.pool(self.layers(images))
        values = values + self.places if hasattr(self, "places") else values
        return self.after(self.last(values.flatten(1)))


def as_it_is(values: Tensor) -> Tensor:
    return values


def probabilities(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.softmax(1), values.mean(1)


def classifier_of(after: Callable[[Tensor], object] = as_it_is, *, constant: bool = False) -> Classifier:
    torch.manual_seed(0)
    module = Chain(after, constant)
    norm = module.layers[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean, norm.running_var = torch.randn(4), torch.rand(4) + 0.5
    return Classifier(module.eval(), spec=SPEC, class_names=NAMES)


@pytest.fixture(scope="module")
def network() -> Classifier:
    return classifier_of(constant=True)


def images(count: int) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))


def by_hand(network: Classifier, pictures: Tensor) -> Tensor:
    """Logits by the layers one after the other, without the classifier."""
    module = network.module
    assert isinstance(module, Chain)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (SPEC.mean, SPEC.std))
    with torch.no_grad():
        values = module.pool(module.layers((pictures - mean) / std))
        return module.last((values + getattr(module, "places", 0)).flatten(1))


def same(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


# -- a classifier, exported by hand


def by_torch_export(network: Classifier) -> Callable[[Tensor], Tensor]:
    shapes = {"images": {0: torch.export.Dim("batch")}}
    return torch.export.export(network, (images(2),), dynamic_shapes=shapes).module()


def by_onnx_export(network: Classifier) -> Callable[[Tensor], Tensor]:
    shapes = {"images": {0: torch.export.Dim("batch")}}
    exported = torch.onnx.export(network, (images(2),), dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert exported is not None
    session = onnxruntime.InferenceSession(exported.model_proto.SerializeToString())
    name = session.get_inputs()[0].name
    return lambda pictures: torch.from_numpy(session.run(None, {name: pictures.numpy()})[0])


def by_trace(network: Classifier) -> Callable[[Tensor], Tensor]:
    return torch.jit.trace(network, images(2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("exported", "after"),
    [
        (by_torch_export, probabilities),
        (by_onnx_export, as_it_is),
        (by_trace, as_it_is),
        (by_trace, probabilities),
    ],
)
def test_an_export_by_hand_takes_any_number_of_images(
    exported: Callable[[Classifier], Callable[[Tensor], Tensor]], after: Callable[[Tensor], object]
) -> None:
    """The network that the classifier runs would keep the number of images of the export."""
    network = classifier_of(after)
    assert network.merged
    run = exported(network)
    for count in BATCHES:
        expected = by_hand(network, images(count))
        assert same(run(images(count)).softmax(1), expected.softmax(1))
    assert network.fused is not network.module


# -- ONNX


@pytest.fixture(scope="module")
def onnx_file(network: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "a.onnx"
    found = export_onnx(network, path, images=images(70))
    assert found.pictures == 70
    assert found.difference < 1e-5 * found.largest
    return path


def test_an_onnx_file_is_run_by_onnxruntime_alone(network: Classifier, onnx_file: Path) -> None:
    onnx.checker.check_model(onnx.load(onnx_file), full_check=True)
    session = onnxruntime.InferenceSession(onnx_file)
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape) == ("images", ["batch", 3, 16, 16])
    assert (given.name, given.shape) == ("logits", ["batch", 5])
    for count in BATCHES:
        (logits,) = session.run(["logits"], {"images": images(count).numpy()})
        assert same(torch.from_numpy(logits), by_hand(network, images(count)))


def test_the_metadata_tell_classes_shape_and_network(network: Classifier, onnx_file: Path) -> None:
    read = ExportedNetwork(onnx_file)
    assert read.class_names == NAMES
    assert read.shape == SPEC.shape
    assert read.description.network_sha256 == network.fingerprint()
    assert read.description.weights == "float32"
    assert same(read(images(7)), by_hand(network, images(7)))
    with pytest.raises(ZskdError, match=r"the images are \(1, 16, 16\), and the network takes \(3, 16, 16\)"):
        read(torch.rand(2, 1, 16, 16))


def test_the_same_network_gives_the_same_bytes_without_places_on_this_machine(
    network: Classifier, onnx_file: Path
) -> None:
    model = onnx_file.read_bytes()
    assert model == onnx_model(network)
    folders = {Path(__file__).parents[1], Path(onnx.__file__).parents[1], Path.cwd()}
    assert not any(str(folder).encode() in model for folder in folders)


def test_attention_and_a_forward_pass_that_calls_len_are_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = export_pt2(Classifier(Tokens(), spec=SPEC), tmp_path / "a.pt2")
    assert found.difference < 1e-5 * found.largest


def test_a_file_that_differs_is_an_error(network: Classifier) -> None:
    with pytest.raises(ZskdError, match=r"a.onnx was not written: in batches of 1 its logits differ"):
        compare(lambda some: by_hand(network, some) + 0.1, network, images(3), what="a.onnx")
    with pytest.raises(ZskdError, match=r"a.onnx was not written: it fails in batches of 1 \(no\): choose"):
        compare(_fail, network, images(3), what="a.onnx")


def _fail(_images: Tensor) -> Tensor:
    raise RuntimeError("no")


def test_a_difference_leaves_no_file(
    network: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_BOUND", -1.0)
    with pytest.raises(ZskdError, match="was not written"):
        export_torch(network, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


class ByValue(nn.Module):
    """Its forward pass depends on the values of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3 * 256, 5)

    def forward(self, pictures: Tensor) -> Tensor:
        values = pictures.flatten(1)
        return self.last(values if values.mean() > 0 else -values)


def test_a_network_that_cannot_be_recorded_is_one_clear_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """torch itself prints pages about it."""
    with pytest.raises(ZskdError, match="torch.export cannot record this network for any number") as found:
        export_onnx(Classifier(ByValue(), spec=SPEC), tmp_path / "a.onnx")
    assert "\n" not in str(found.value)
    told = capfd.readouterr()
    assert told.out + told.err == ""
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_told_with_the_line_that_installs_it(
    network: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ZskdError, match=r"pip install 'zskd\[export\]'"):
        export_onnx(network, tmp_path / "a.onnx")


def test_other_onnx_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"no")
    with pytest.raises(ZskdError, match="onnxruntime cannot run"):
        ExportedNetwork(path)
    with pytest.raises(ZskdError, match="there is no file"):
        ExportedNetwork(tmp_path / "missing.onnx")
    node = onnx.helper.make_node("Identity", ["images"], ["logits"])
    values = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in ("images", "logits")
    ]
    graph = onnx.helper.make_graph([node], "a", values[:1], values[1:])
    other = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(other, path)
    with pytest.raises(ZskdError, match="does not tell its classes"):
        ExportedNetwork(path)
    onnx.helper.set_model_props(other, {"zskd": json.dumps({"class_names": ["one"]})})
    onnx.save(other, path)
    with pytest.raises(ZskdError, match="give a file that zskd export wrote"):
        ExportedNetwork(path)


def test_a_network_whose_export_onnxruntime_cannot_run_is_advised_another_format() -> None:
    with pytest.raises(ZskdError, match="onnxruntime cannot run the exported network .* with --to pt2$"):
        ExportedNetwork(b"no")


def test_a_network_that_depends_on_chance_is_not_advised_another_format(tmp_path: Path) -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(nn.functional.dropout(x.flatten(1)))

    drops = Classifier(Dropping(), spec=InputSpec(shape=(1, 8, 8)))
    with pytest.raises(ZskdError, match="the network's logits depend on chance: switch dropout"):
        export_onnx(drops, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


# -- int8


def test_int8_agrees_on_images_that_it_was_not_calibrated_on(
    teacher: Classifier,
    teacher_folder: Path,
    small_set: TransferSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "a.onnx"
    given = ["--to", "onnx-int8", "--out", str(path), "--set", str(small_set.folder)]
    assert main(["export", str(teacher_folder), *given]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.strip(" ─")]
    start = next(number for number, line in enumerate(told) if line.startswith("network"))
    of_float, of_int8, *others = told[start + 1 :]
    sizes = [int(line.split()[1].replace(",", "")) for line in (of_float, of_int8)]
    assert sizes[1] == path.stat().st_size < sizes[0] / 2
    assert others[0] == "calibrated on 25 images of the set"
    agreed = re.fullmatch(r"agreement with float32 on others of the set  ([\d.]+) % \[.*\] of 25", others[1])
    assert agreed is not None
    assert float(agreed[1]) > 80
    assert others[2:] == [f"exported to {path}"]
    read = ExportedNetwork(path)
    assert read.description.weights == "int8"
    assert read.description.network_sha256 == teacher.fingerprint()
    stored = {one.name: one for one in onnx.load(path).graph.initializer}
    weights = [one for one in stored.values() if one.data_type == onnx.TensorProto.INT8]
    assert weights
    assert max(np.abs(_values(one)).max() for one in weights) <= 64, "7 bits"
    scales = [one for name, one in stored.items() if name.endswith("weight_scale")]
    assert any(one.dims and one.dims[0] > 1 for one in scales), "one scale for each channel"


def _values(tensor: onnx.TensorProto) -> np.ndarray:
    return onnx.numpy_helper.to_array(tensor).astype(int).ravel()


def test_a_set_that_does_not_fit_is_refused(
    network: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    with pytest.raises(ZskdError, match="the network has 5 classes and the data 10"):
        export_onnx_int8(network, small_set, tmp_path / "a.onnx")
    other = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(256, 10)), spec=InputSpec(shape=(1, 16, 16)))
    with pytest.raises(ZskdError, match=r"are \(1, 32, 32\), and the network takes \(1, 16, 16\)"):
        export_onnx_int8(other, small_set, tmp_path / "a.onnx")
    one = TransferSet(small_set.folder, first=1)
    fitting = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)), spec=InputSpec(shape=(1, 32, 32)))
    with pytest.raises(ZskdError, match="holds one image"):
        export_onnx_int8(fitting, one, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_no_fault_of_the_network(small_set: TransferSet, tmp_path: Path) -> None:
    fitting = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)), spec=InputSpec(shape=(1, 32, 32)))
    told = pytest.raises(ZskdError, match=r"^cannot write temporary files to /\S+: File too large$")
    with files_of_at_most(1000), told:
        export_onnx_int8(fitting, small_set, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


# -- torch


def test_an_archive_is_read_by_torch(network: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    found = export_pt2(network, path)
    assert found.difference < 1e-5 * found.largest
    extra = {DESCRIPTION: ""}
    read = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra[DESCRIPTION])["class_names"] == list(NAMES)
    for count in BATCHES:
        assert same(read(images(count)), by_hand(network, images(count)))


def test_a_folder_needs_only_torch(network: Classifier, tmp_path: Path) -> None:
    """Its example runs in a process that cannot import zskd, and answers as the network does."""
    folder = tmp_path / "in" / "a"
    export_torch(network, folder, title='odd """ \\ title {x}')
    assert sorted(path.name for path in folder.iterdir()) == [
        *("constants.safetensors", "example.py", "model.py", "model.safetensors"),
    ]
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == network.module.state_dict().keys()
    assert all(torch.equal(weights[key], value) for key, value in network.module.state_dict().items())
    pixels = (images(1)[0] * 255).round().to(torch.uint8)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text("import sys\nsys.modules['zskd'] = None\n")
    done = subprocess.run(
        [sys.executable, folder / "example.py", tmp_path / "a.png"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(blocked)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = by_hand(network, pixels[None].float() / 255)[0].softmax(0)
    best = int(expected.argmax())
    assert f"  {NAMES[best]} {expected[best]:.3f}" in done.stdout


class WithConstants(nn.Module):
    """A network with a part of this name, and with a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.constants, self.table = nn.Linear(3 * 64, 5), torch.linspace(1, 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.constants(x.flatten(1)) * self.table


def test_a_part_of_a_network_may_be_called_constants(tmp_path: Path) -> None:
    network = Classifier(WithConstants(), spec=InputSpec(shape=(3, 8, 8))).freeze()
    found = export_torch(network, tmp_path / "a")
    assert found.difference < 1e-5 * found.largest


def test_a_folder_that_is_not_empty_is_left(network: Classifier, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("mine")
    with pytest.raises(ZskdError, match="a is not empty: choose another folder"):
        export_torch(network, tmp_path / "a")
    (tmp_path / "b").write_text("mine")
    with pytest.raises(ZskdError, match="b is a file: choose another folder"):
        export_torch(network, tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


# -- the Hub


def test_a_folder_for_the_hub_is_opened_by_its_mixin(
    network: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(
        architecture=Factory(factory="/home/me/nets.py:build"), origin=Origin(how="distilled", seed=3)
    )
    export_hf(network, card, tmp_path / "a", results=["Test accuracy: 12 %."])
    monkeypatch.chdir(tmp_path / "a")
    monkeypatch.syspath_prepend(tmp_path / "a")
    text = Path("README.md").read_text("utf-8")
    assert "# nets.py:build" in text
    assert "/home/me" not in text + Path("config.json").read_text("utf-8") + Path("model.py").read_text(
        "utf-8"
    )
    for line in ("- Test accuracy: 12 %.", "- Seed: 3", NAMES[2], "library_name: pytorch"):
        assert line in text
    block = text.split("```python\n")[2].split("```")[0]
    space: dict[str, Any] = {}
    exec(block, space)  # as the card tells
    sys.modules.pop("model")
    assert same(space["network"](images(7)), by_hand(network, images(7)))
    assert space["network"]._hub_mixin_config["id2label"] == {str(k): name for k, name in enumerate(NAMES)}


def test_a_folder_of_a_timm_network_is_opened_by_timm(tmp_path: Path) -> None:
    timm = import_extra("timm")
    arguments = {"num_classes": 5, "layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_width": 4}
    architecture = TimmNetwork(timm="resnet18", arguments=arguments)
    network = Classifier(fresh_weights(architecture.build, 0), spec=SPEC, class_names=NAMES)
    export_hf(network, Card(architecture=architecture), tmp_path / "a")
    read = timm.create_model(f"local-dir:{tmp_path / 'a'}", pretrained=True).eval()
    assert read.pretrained_cfg["label_names"] == list(NAMES)
    assert (read.pretrained_cfg["mean"], read.pretrained_cfg["std"]) == ([*SPEC.mean], [*SPEC.std])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (SPEC.mean, SPEC.std))
    with torch.no_grad():
        expected = network.eval()(images(7))
        assert same(read((images(7) - mean) / std), expected)


def test_the_model_card_has_the_results_of_the_run(tmp_path: Path) -> None:
    """Metrics of a committed run, in the folder of a run."""
    record = Path(__file__).parents[2] / "results" / "students.json"
    (tmp_path / "metrics.json").write_bytes(record.read_bytes())
    (tmp_path / "sources.json").write_text("{}")
    told = json.loads(record.read_text("utf-8"))
    name = told["arms"][0]["arm"]
    first, *others = checkpoint_results(tmp_path / "students" / name)
    assert first.startswith(
        f"Test accuracy on {told['data']}: {told['arms'][0]['test_accuracy']['percent']:.2f} %"
    )
    assert any(line.startswith("Agreement with its teacher on held-out impressions: ") for line in others)
    (of_teacher,) = checkpoint_results(tmp_path / "teacher")
    assert f"{told['teacher']['test_accuracy']['percent']:.2f} %" in of_teacher
    assert checkpoint_results(tmp_path / "students" / "other") == []
    assert checkpoint_results(tmp_path / "elsewhere" / "students" / name) == []


# -- the command


def test_the_command_writes_each_format(
    teacher_folder: Path, small_set: TransferSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torch").mkdir()
    for to, name in (("onnx", "a.onnx"), ("pt2", "a.pt2"), ("torch", "torch"), ("hf", "hf")):
        out = tmp_path / name
        arguments = ["--to", to, "--out", str(out), "--set", str(small_set.folder)]
        assert main(["export", str(teacher_folder), *arguments]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("on 50 pictures in batches of 1, 7 and 64 its logits differ by ")
        assert lines[1:] == [f"exported to {out}"]
    assert '"""lenet5, for inference' in (tmp_path / "torch" / "model.py").read_text()
    assert "No results are recorded beside this network" in (tmp_path / "hf" / "README.md").read_text()


@pytest.mark.parametrize(
    ("what", "arguments", "message"),
    [
        ("network", ["--to", "mat", "--out", "a.mat"], "is a network: export it with --to onnx, onnx-int8"),
        (
            "set",
            ["--to", "onnx", "--out", "a.onnx"],
            "is a transfer set: export it with --to parquet, webdataset",
        ),
        ("neither", ["--to", "onnx", "--out", "a.onnx"], "is neither the checkpoint folder of a network nor"),
        ("network", ["--to", "onnx", "--out", "a"], "a does not end in .onnx: give a file name that does"),
        (
            "network",
            ["--to", "pt2", "--out", "a.pt"],
            "a.pt does not end in .pt2: give a file name that does",
        ),
        ("network", ["--to", "onnx-int8", "--out", "a.onnx"], "add --set FOLDER, the student's transfer set"),
        ("network", ["--to", "onnx", "--out", "a.onnx", "--teacher", "t"], "--teacher belongs to the export"),
        (
            "set",
            ["--to", "mat", "--out", "a.mat", "--set", "set"],
            "--set belongs to the export of a network",
        ),
    ],
)
def test_a_wrong_pairing_is_one_line(
    what: str,
    arguments: list[str],
    message: str,
    teacher_folder: Path,
    small_set: TransferSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    source = {"network": teacher_folder, "set": small_set.folder, "neither": tmp_path}[what]
    assert main(["export", str(source), *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
