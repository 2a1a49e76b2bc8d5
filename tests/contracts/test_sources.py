"""A run is identified by the contents of its sources, and all sources are opened before the run begins."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from limits import LIMIT
from zskd.cli.main import main as run
from zskd.config.loading import load_recipe
from zskd.config.registry import ARCHITECTURES
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.errors import ZskdError
from zskd.evaluation.metrics import agreement
from zskd.models.class_names import check_classes
from zskd.models.classifier import Classifier
from zskd.models.factory import Factory, build
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import SetSpec
from zskd.synthesis.trace import trace_impression

QUICK = [
    *("--count", "40", "--distill.steps", "2", "--synthesis.steps", "2", "--held-out", "10"),
    *("--distill.start", "random", "--controls", "none", "--quiet"),
]
SMALL = [*QUICK, "--teacher.shape", "1", "16", "16"]


def lenet(seed: int, size: int = 16) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ARCHITECTURES.load("lenet5")(size=size).state_dict()


def pictures(root: Path, seed: int, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    rng = np.random.default_rng(seed)
    for part in ("train", "test"):
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(0, 255, (20, 20), dtype=np.uint8)).save(folder / f"{i}.png")


def test_a_teacher_file_that_was_replaced_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["run", "my-teacher", "--teacher.path", "net.safetensors", "--out", "r", *SMALL]
    save_file(lenet(0), "net.safetensors")
    assert run(command) == 0
    assert run(command) == 0
    save_file(lenet(1), "net.safetensors")
    capsys.readouterr()
    assert run(command) == 2
    assert "r was made with another teacher_sha256" in capsys.readouterr().err


def test_data_that_were_replaced_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "a", 0)
    pictures(tmp_path / "b", 1)
    command = ["run", "digits", "--data.name", "folder", "--data.validation", "0", "--teacher.epochs", "1"]
    command += [*SMALL, "--out", "r", "--data-dir"]
    assert run([*command, "a"]) == 0
    (tmp_path / "a").rename(tmp_path / "moved")
    assert run([*command, "moved"]) == 0
    capsys.readouterr()
    assert run([*command, "b"]) == 2
    assert "another data_sha256" in capsys.readouterr().err


def test_a_teacher_that_has_no_half_can_be_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "from torch import nn\n"
        "class Residual(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.fc = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(1024, 10)\n"
        "    def forward(self, x):\n"
        "        return self.fc((x + self.conv(x)).flatten(1))\n"
    )
    command = ["teacher", "train", "--model", "own.py:Residual", "--teacher.epochs", "1", "--quiet"]
    assert run([*command, "--out", "t"]) == 0, capsys.readouterr().err
    assert run(["run", "digits", "--model", "own.py:Residual", "--out", "r", "--quiet"]) == 2
    assert "--student package.module:factory" in capsys.readouterr().err


def test_a_wrong_command_can_be_corrected_in_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(lenet(0), "net.safetensors")
    wrong = ["run", "my-teacher", "--teacher.path", "nte.safetensors", "--out", "r", *SMALL]
    assert run(wrong) == 2
    assert run(["run", "my-teacher", "--teacher.path", "net.safetensors", "--out", "r", *SMALL]) == 0


IMPOSSIBLE = {
    "a student that cannot be built": (
        ["my-teacher", "--teacher.path", "soft.safetensors", "--model", "own.py:Soft", "--head", "fc"],
        "--student package.module:factory",
    ),
    "colours for grey data": (["digits", "--teacher.shape", "3", "32", "32"], "grey images"),
    "other classes than the data's": (
        ["digits", "--teacher.path", "two.safetensors", "--model", "own.py:two"],
        "2 classes and the data 10",
    ),
    "data that are not there": (["mnist", "--data-dir", "nowhere", "--count", "20"], "nowhere/MNIST/raw"),
    "golden pairs for a teacher to be trained": (["digits", "--golden", "g.npz"], "is to be trained"),
    "a place in a file for a teacher to be trained": (["digits", "--weights", "ema"], "is to be trained"),
}


@pytest.mark.parametrize("name", list(IMPOSSIBLE))
def test_a_run_that_must_fail_does_not_begin(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from torch import nn\n"
        "import beside\n"
        "@dataclass\n"
        "class Options:\n"
        "    width: int = 1024\n"
        "class Soft(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(Options().width, beside.CLASSES)\n"
        "    def forward(self, x):\n"
        "        return self.fc(x.flatten(1)).softmax(1).sqrt()\n"
        "def two():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 2))\n"
    )
    Path("beside.py").write_text("CLASSES = 3\n")
    save_file({"fc.weight": torch.randn(3, 1024), "fc.bias": torch.zeros(3)}, "soft.safetensors")
    save_file({"1.weight": torch.randn(2, 1024), "1.bias": torch.zeros(2)}, "two.safetensors")
    arguments, expected = IMPOSSIBLE[name]
    assert run(["run", *arguments, "--out", "r", *(q for q in QUICK if "count" not in q and q != "40")]) == 2
    assert expected in capsys.readouterr().err
    assert not Path("r/teacher").exists()
    assert not Path("r/sets").exists()


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1024, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.sub_(0.5).flatten(1))


def test_a_network_that_works_in_place_does_not_change_the_images() -> None:
    teacher = Classifier(InPlace()).freeze()
    images = torch.rand(4, 1, 32, 32)
    before = images.clone()
    agreement(teacher, teacher, images)
    assert torch.equal(images, before)
    shard = make_shard(teacher, SetSpec(count=6, synthesis=SynthesisConfig(steps=3, batch_size=6)), 0)
    assert bool(torch.isfinite(shard.images).all())


def test_an_activation_in_place_after_the_last_layer_belongs_to_the_network_unless_that_is_named() -> None:
    linear = nn.Linear(1024, 4)
    nn.init.constant_(linear.weight[0], -1)  # below zero for every image
    module = nn.Sequential(nn.Flatten(), linear, nn.ReLU(inplace=True))
    assert float(Classifier(module)(torch.rand(8, 1, 32, 32)).detach().min()) == 0
    named = Classifier(module, head="1")
    assert float(named(torch.rand(8, 1, 32, 32)).detach().min()) < 0


def test_half_precision_weights_are_used_in_single(tmp_path: Path) -> None:
    from zskd.teacher.opening import open_teacher

    save_file(
        {name: value.bfloat16() for name, value in lenet(0, size=32).items()}, tmp_path / "net.safetensors"
    )
    teacher, _ = open_teacher(tmp_path / "net.safetensors", model="lenet5")
    assert teacher.head_weight.dtype == torch.float32
    save_file(
        {name: (9 * value).long() for name, value in lenet(0, size=32).items()}, tmp_path / "int.safetensors"
    )
    with pytest.raises(ZskdError, match=r"holds torch.int64, and the network needs torch.float32"):
        open_teacher(tmp_path / "int.safetensors", model="lenet5")


def test_classes_in_another_order_are_refused() -> None:
    names = tuple("0123456789")
    check_classes(names, names)
    check_classes(names, tuple("abcdefghij"))
    with pytest.raises(ZskdError, match="the data has 0 at another place"):
        check_classes(names, names[::-1])
    with pytest.raises(ZskdError, match="10 classes and the data 2"):
        check_classes(names, ("cat", "dog"))


def test_data_are_read_in_the_order_of_the_network_s_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder sorts its classes by name; a network has them in any order."""
    monkeypatch.chdir(tmp_path)
    names = ("ant", "bee", "cat")
    pictures(tmp_path / "a", 0, names)
    torch.manual_seed(0)
    network = ARCHITECTURES.load("lenet5")(size=16, classes=3)
    weights = network.state_dict()
    order = [2, 0, 1]
    moved = {key: value[order] if len(value) == 3 else value for key, value in weights.items()}
    found = []
    for file, kept, its in (
        ("plain", weights, names),
        ("moved", moved, tuple(names[k] for k in order)),
    ):
        save_file({key: value.clone() for key, value in kept.items()}, f"{file}.safetensors")
        command = [
            "run",
            "my-teacher",
            "--teacher.path",
            f"{file}.safetensors",
            "--teacher.class-names",
            *its,
        ]
        command += [
            "--data.name",
            "folder",
            "--data-dir",
            "a",
            "--data.validation",
            "0",
            *SMALL,
            "--out",
            file,
        ]
        assert run(command) == 0
        metrics = json.loads(Path(file, "metrics.json").read_text())
        found.append(metrics["teacher"]["test_accuracy_by_class"])
    plain, other = found
    assert list(other) == [names[k] for k in order]
    assert plain == {name: other[name] for name in names}
    assert len(set(plain.values())) > 1, "which class is which must matter"


def test_the_record_of_a_finished_run_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(lenet(0), "net.safetensors")
    command = ["run", "my-teacher", "--teacher.path", "net.safetensors", "--out", "r", *SMALL]
    assert run(command) == 0
    record = Path("r/metrics.json").read_text()
    manifest = Path("r/sets/zskd/manifest.json")
    manifest.write_text(manifest.read_text().replace(torch.__version__, "1.0.0"))
    stamped = manifest.read_text()
    assert run(command) == 0
    assert Path("r/metrics.json").read_text() == record
    assert json.loads(record)["accuracy"] == "accuracy not measured: no data"
    Path("r/metrics.json").unlink()
    assert run(command) == 0
    assert manifest.read_text() == stamped


def test_rows_need_equal_blocks_and_their_traces_end_in_the_stored_image(
    teacher: Classifier, tmp_path: Path
) -> None:
    recipe = load_recipe(None, {"preset": "release"})
    from dataclasses import replace

    spec = SetSpec(
        count=120,
        targets=recipe.targets,
        synthesis=replace(recipe.synthesis, steps=5, batch_size=4),
    )
    made = build_transfer_set(teacher, spec, tmp_path / "set")
    for index in (0, 5, 119):
        frames = trace_impression(teacher, spec, index, frames=3)
        assert torch.equal(frames[-1].image, made.images(torch.tensor([index]))[0])
    with pytest.raises(ZskdError, match="a multiple of 20, not 30"):
        make_shard(teacher, replace(spec, count=30), 0)
    with pytest.raises(ZskdError, match="must be 0 with carry-images or carry-moments"):
        SynthesisConfig(carry_images=True, noise_share=0.5)


def test_other_instructions_of_the_processor_give_the_same_set_within_the_stated_tolerance(
    teacher: Classifier, teacher_folder: Path, tmp_path: Path
) -> None:
    """docs/architecture.md: mean KL within 5 %, class match within 2 points; AVX2 is the other machine."""
    import os
    import subprocess
    import sys

    spec = SetSpec(
        count=400,
        targets=TargetsConfig(),
        synthesis=SynthesisConfig(steps=30, noise_share=0.0, batch_size=100, shard_size=400),
    )
    here = build_transfer_set(teacher, spec, tmp_path / "here").manifest
    code = (
        "import sys; from pathlib import Path; from zskd import load_checkpoint\n"
        "from zskd.synthesis.build import build_transfer_set; from zskd.synthesis.spec import read_spec\n"
        "from zskd.transfer_set.manifest import read_manifest\n"
        "spec = read_spec(read_manifest(Path(sys.argv[2])).spec)\n"
        "build_transfer_set(load_checkpoint(Path(sys.argv[1]))[0], spec, Path(sys.argv[3]))\n"
    )
    other_machine = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2"}
    subprocess.run(
        [sys.executable, "-c", code, str(teacher_folder), str(tmp_path / "here"), str(tmp_path / "there")],
        env={**os.environ, **other_machine},
        check=True,
        timeout=LIMIT,
    )
    there = json.loads((tmp_path / "there" / "manifest.json").read_text())
    assert there["mean_kl"] == pytest.approx(here.mean_kl, rel=0.05)
    assert there["anchor_match"] == pytest.approx(here.anchor_match, abs=0.02)


def test_a_factory_that_a_card_names_must_be_named_again() -> None:
    with pytest.raises(ZskdError, match="--model os:getcwd"):
        build(Factory(factory="os:getcwd"), run_code=False)
