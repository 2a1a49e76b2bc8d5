"""What the method is for: a checkpoint and no data at all."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.io import savemat

from conftest import run_zskd
from warm import python
from zskd.data.datasets import Dataset
from zskd.evaluation.metrics import accuracy
from zskd.models.checkpoint import load_checkpoint
from zskd.models.classifier import Classifier

QUICK = (
    "--count",
    200,
    "--distill.steps",
    60,
    "--synthesis.batch-size",
    50,
    "--controls",
    "none",
    "--held-out",
    50,
    "--workers",
    1,
    "--quiet",
)

OWN = """
import torch
from torch import nn
import torch.nn.functional as F

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv0, self.conv1 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc0, self.fc1, self.fc2 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv0(x)), 2)
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.relu(self.fc0(x.view(x.size(0), -1)))
        return self.fc2(F.relu(self.fc1(x)))
"""


def check(output: str, folder: Path, digits: Dataset) -> None:
    assert "accuracy not measured: no data" in output
    assert "agreement with the teacher, in %, on images that no student was trained on" in output
    assert "agreement with the teacher on real images, estimated without any" in output
    page = (folder / "README.md").read_text()
    assert "accuracy not measured: no data" in page
    metrics = json.loads((folder / "metrics.json").read_text())
    assert "test_accuracy" not in metrics["teacher"]
    estimated = metrics["arms"][0]["estimated_agreement"]
    assert estimated["words"][0] in page
    assert 0 <= estimated["low"] <= estimated["high"] <= 100
    for kind in ("impressions", "noise_smooth", "noise_shapes", "noise_white"):
        assert metrics["arms"][0]["agreement"][kind]["n"] == 50
    # it is a real student: on digits that it has never seen it is far above chance
    student, _ = load_checkpoint(folder / "students" / "zskd")
    assert student.parameters_count == 35_820
    assert accuracy(student, digits.test).percent > 30


@pytest.mark.slow
def test_from_the_matlab_file_alone(teacher: Classifier, digits: Dataset, tmp_path: Path) -> None:
    arrays = {}
    for name in ("conv0", "conv1", "fc0", "fc1", "fc2"):
        layer = teacher.module.get_submodule(name)
        w = layer.weight.numpy()
        if name == "fc0":
            w = w.reshape(120, 16, 5, 5).transpose(0, 2, 3, 1).reshape(120, 400)
        arrays[f"Teacher/{name}/weights"] = w.transpose(2, 3, 1, 0) if w.ndim == 4 else w.T
        arrays[f"Teacher/{name}/biases"] = layer.bias.numpy()[None]
    savemat(tmp_path / "Lenet5.mat", arrays)
    done = run_zskd("run", "my-teacher", "--teacher.path", "Lenet5.mat", "--out", "run", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check(done.stdout, tmp_path / "run", digits)


@pytest.mark.slow
def test_from_weights_and_a_module_of_ones_own(teacher: Classifier, digits: Dataset, tmp_path: Path) -> None:
    weights = {name: value.contiguous() for name, value in teacher.module.state_dict().items()}
    save_file(weights, tmp_path / "net.safetensors")
    (tmp_path / "own.py").write_text(OWN)
    x = torch.rand(4, 1, 32, 32)
    with torch.no_grad():
        np.savez(tmp_path / "golden.npz", inputs=x.numpy(), logits=teacher(x).numpy())
    own = ("--teacher.path", "net.safetensors", "--model", "own.py:Own", "--golden", "golden.npz")
    done = run_zskd("run", "my-teacher", *own, "--out", "run", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check(done.stdout, tmp_path / "run", digits)
    card = json.loads((tmp_path / "run" / "teacher" / "card.json").read_text())
    assert card["golden"]["pairs"] == 4


@pytest.mark.slow
def test_two_classes_and_colours(tmp_path: Path) -> None:
    """An odd teacher: RGB, 20×24 pixels, two classes, normalised, batch-norm, another head name."""
    (tmp_path / "odd.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.SiLU(),\n"
        "        nn.AvgPool2d(2), nn.Conv2d(8, 12, 3, stride=2), nn.Tanh(), nn.AdaptiveAvgPool2d(1),\n"
        "        nn.Flatten(), nn.Dropout(0.2), nn.Linear(12, 2))\n"
    )
    code = "import torch, odd; torch.save(odd.build().state_dict(), 'odd.pt')"
    import subprocess

    subprocess.run([*python(), "-c", code], cwd=tmp_path, check=True)
    done = run_zskd(
        *("run", "my-teacher", "--teacher.path", "odd.pt", "--model", "odd.py:build", "--out", "run"),
        *("--shape", 3, 20, 24, "--mean", 0.5, 0.4, 0.3, "--std", 0.2, 0.2, 0.2),
        *("--teacher.class-names", "cat", "dog", "--count", 60, "--distill.steps", 10, "--held-out", 20),
        *("--synthesis.steps", 5, "--quiet"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run" / "sets" / "zskd_bn" / "manifest.json").read_text())
    assert manifest["class_names"] == ["cat", "dog"]
    assert manifest["shape"] == [3, 20, 24]
