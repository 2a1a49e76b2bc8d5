"""What engineers and researchers met who only used the commands and read the pages."""

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from zskd.cli.main import main as run
from zskd.config.loading import load_recipe
from zskd.core.errors import ZskdError
from zskd.core.tables import markdown_table
from zskd.distillation.distill import distill
from zskd.export.pt2 import export_pt2
from zskd.models.chain import read_layers
from zskd.models.checkpoint import Card, Origin, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import Layers
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec

OWN = """
import numpy as np
import torch
import torch.nn.functional as F
import zskd


class Rows(zskd.GeneratorMethod):
    def loss(self, batch):
        return batch.teacher.logits.sum(1)


class Numbers(zskd.GeneratorMethod):
    def targets(self, count, classes, rng):
        return np.eye(classes, dtype=np.float64)[rng.integers(classes, size=count)]

    def loss(self, batch):
        return F.cross_entropy(batch.teacher.logits, batch.targets.argmax(1))


class Wide(Numbers):
    def targets(self, count, classes, rng):
        return torch.zeros(count, classes + 1)


def constant(student, teacher, config):
    return torch.tensor(1.0)


def number(student, teacher, config):
    return 1.0


def each(student, teacher, config):
    return (student - teacher).square().sum(1)


def searching(parameters, learning_rate):
    return torch.optim.LBFGS(parameters, lr=learning_rate)
"""


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"generator": {"share": 1.0, "method": "Rows"}},
            r":Rows is a tensor \(4,\): it must be one",
        ),
        (
            {"generator": {"share": 1.0, "method": "Wide"}},
            r"are \(4, 4\): give one row for each",
        ),
        ({"generator": {"share": 1.0, "method": "Numbers"}}, None),
        ({"loss": "constant"}, r"a tensor \(\) without a gradient: it must be one number"),
        ({"loss": "number"}, r"is 1\.0: it must be one number"),
        ({"loss": "each"}, r"is a tensor \(4,\): it must be one number"),
        ({"optimiser": "searching"}, "needs a closure"),
    ],
)
def test_own_losses_targets_and_optimisers_are_told_in_one_line(
    settings: dict[str, Any], line: str | None, tmp_path: Path
) -> None:
    code = tmp_path / "own_parts.py"
    code.write_text(OWN)
    shown: dict[str, Any] = {}
    for key, value in settings.items():
        named = value if isinstance(value, dict) else {"method": value}
        of_code = {"method": f"{code}:{named['method']}"}
        shown[key] = named | of_code | {"width": 4, "latent": 4} if value is named else of_code["method"]
    torch.manual_seed(0)
    spec = InputSpec(shape=(1, 8, 8))
    teacher, network = (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)) for _ in range(2)
    )
    asked = {"steps": 2, "batch_size": 4, "start": "random", **shown}
    config = load_recipe(None, {"distill": asked}).distill
    images = None
    if config.needs_set:
        images = build_transfer_set(
            Classifier(teacher, spec=spec).freeze(), SetSpec(method="noise", count=8), tmp_path / "set"
        )
    with pytest.raises(ZskdError, match=line) if line else nullcontext():
        distill(Classifier(teacher, spec=spec).freeze(), network, images, config, seed=0)


def test_a_bar_in_a_cell_ends_no_cell() -> None:
    made = markdown_table(("a|b", "c"), [("1\n2", "`x|y`")])
    assert made.splitlines() == [r"| a\|b | c |", "|---|---|", r"| 1 2 | `x\|y` |"]


def test_an_export_is_compared_in_the_same_batches(tmp_path: Path) -> None:
    """Without running statistics a network answers otherwise in another batch, and so does its export."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Flatten(), nn.Linear(144, 3))
    classifier = Classifier(network, spec=InputSpec(shape=(1, 8, 8))).freeze()
    assert export_pt2(classifier, tmp_path / "network.pt2").difference < 1e-5


def test_classes_in_another_order_are_measured_by_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for names in (("dark", "light"), ("light", "dark")):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        with torch.no_grad():
            sign = 1 if names[1] == "light" else -1
            network[1].weight.copy_(sign * torch.tensor([[-1.0], [1.0]]).repeat(1, 64))
            network[1].bias.copy_(sign * torch.tensor([32.0, -32.0]))
        classifier = Classifier(network, spec=InputSpec(shape=(1, 8, 8)), class_names=names).freeze()
        card = Card(architecture=Layers(layers=tuple(read_layers(network))), origin=Origin(how="imported"))
        folder = save_checkpoint(classifier, card, tmp_path / "-".join(names))
        for name, pixel in (("dark", 20), ("light", 230)):
            for split in ("train", "test"):
                (tmp_path / "data" / split / name).mkdir(parents=True, exist_ok=True)
                for number in range(4):
                    picture = Image.new("L", (8, 8), pixel + number)
                    picture.save(tmp_path / "data" / split / name / f"{number}.png")
        data = ["--data.name", "folder", "--data-dir", str(tmp_path / "data")]
        assert run(["evaluate", str(folder), *data, "--no-estimate", "--json"]) == 0
        found[names] = json.loads(capsys.readouterr().out)
    assert [one["test_accuracy"]["percent"] for one in found.values()] == [100.0, 100.0]
    assert {tuple(sorted(one["test_accuracy_by_class"])) for one in found.values()} == {("dark", "light")}


def test_own_code_may_import_torchvision(tmp_path: Path) -> None:
    """In a process of its own, in which nothing has imported it yet."""
    (tmp_path / "with_vision.py").write_text(
        "import torch, torchvision\n\n\ndef net():\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))\n"
    )
    program = "import zskd; print(zskd.open_teacher('with_vision.py:net', shape=(1, 8, 8))[0].classes)"
    asked = [sys.executable, "-c", program]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("3\n", "")
