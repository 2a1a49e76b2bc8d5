"""What is measured is what is told: which images, which classes, and what cannot be measured or made."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from zskd.cli.main import main as run
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.data.folder import classes_of_files, read_image
from zskd.distillation.invariance import measure_changes
from zskd.evaluation.agreement import NO_GRADIENT, estimate_agreement, not_estimated
from zskd.models.checkpoint import Card, Origin, save_checkpoint
from zskd.models.class_names import matched_by_order
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe, fresh_weights
from zskd.run.metrics import read_metrics

SHAPE = (1, 8, 8)
NET = describe("mlp(widths=(8,))", shape=SHAPE, classes=3)
ROUNDS = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 3)
    def forward(self, x):
        return self.fc((4 * x).round().flatten(1) / 4)
"""
DIVIDES = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 3)
    def forward(self, x):
        spread = x.std((1, 2, 3), keepdim=True)
        return self.fc(((x - x.mean((1, 2, 3), keepdim=True)) / spread).flatten(1))
"""


def classifier(seed: int, names: tuple[str, ...] = ("cat", "dog", "bird")) -> Classifier:
    module = fresh_weights(lambda: build(NET, run_code=False), seed=seed)
    return Classifier(module, spec=InputSpec(shape=SHAPE), class_names=names)


def checkpoint(folder: Path, seed: int, **origin: object) -> str:
    return str(save_checkpoint(classifier(seed), Card(architecture=NET, origin=Origin(**origin)), folder))


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, SHAPE[1:], dtype=np.uint8)).save(path)


def tree(root: Path, classes: tuple[str, ...], each: int = 4) -> Path:
    for k, name in enumerate(classes):
        for number in range(each):
            draw(root / name / f"{number}.png", 10 * k + number)
    return root


def own_network(code: str, folder: Path) -> str:
    folder.mkdir()
    (folder / "net.py").write_text(code)
    scope: dict[str, Callable[[], nn.Module]] = {}
    exec(code, scope)
    torch.manual_seed(0)
    torch.save(scope["Net"]().state_dict(), folder / "net.pt")
    return f"{folder / 'net.py'}:Net@{folder / 'net.pt'}"


# teachers that tell nothing about changes of an image


def test_a_run_of_noise_ends_also_where_no_image_can_be_optimised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = own_network(ROUNDS, tmp_path / "own")
    asked = ["run", "my-teacher", "--teacher.path", source, "--shape", "1", "8", "8", "--method", "noise"]
    sizes = [
        "--count",
        "40",
        "--distill.steps",
        "5",
        "--distill.start",
        "random",
        "--held-out",
        "20",
        "--out",
    ]
    student = ["--student", "mlp(widths=(4,))"]
    assert run([*asked, *student, *sizes, str(tmp_path / "run")]) == 0, capsys.readouterr()
    arm = read_metrics(tmp_path / "run" / "metrics.json").arms[0]
    assert arm.estimated_agreement is None
    assert "impressions" not in arm.agreement
    page = (tmp_path / "run" / "README.md").read_text()
    assert NO_GRADIENT in page
    assert arm.main_kind in arm.agreement
    assert "held-out impressions" not in page


def test_no_estimate_is_the_reason_why_and_not_the_end() -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc((4 * x).round().flatten(1))
            return logits

    rounded = Classifier(Rounded(), spec=InputSpec(shape=SHAPE)).freeze()
    made, other = Origin(how="distilled"), classifier(0).freeze()
    assert not_estimated(rounded, made) == NO_GRADIENT
    assert not_estimated(other, made) is None
    for how in ("trained", "imported", "unknown"):
        assert "is not estimated" in (not_estimated(other, Origin(how=how)) or "")
    with pytest.raises(ZskdError, match="no gradient of the teacher's logits reaches its images"):
        estimate_agreement(rounded, rounded)


def test_changes_that_change_nothing_are_not_said_to_be_borne() -> None:
    grey = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), spec=InputSpec(shape=SHAPE)).freeze()
    asked = AugmentConfig(hue=0.2, brightness=0.2, jpeg=0.5)
    images = torch.rand(9, *SHAPE, generator=torch.Generator().manual_seed(0))
    found = {one.change for one in measure_changes(grey, images, asked, seed=0)}
    only_hue = {one.change for one in measure_changes(grey, images, AugmentConfig(hue=0.2), seed=0)}
    assert only_hue == set()
    assert len(found) == 2


# which images


def test_test_images_need_no_training_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = checkpoint(tmp_path / "net", 0, how="imported")
    tree(tmp_path / "data" / "test", ("bird", "cat", "dog"))
    asked = ["evaluate", student, "--data.name", "folder", "--data-dir"]
    assert run([*asked, str(tmp_path / "data"), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["test_accuracy"]["n"] == 12
    assert "note:" not in captured.err
    tree(tmp_path / "flat", ("bird", "cat", "dog"), each=10)
    assert run([*asked, str(tmp_path / "flat"), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["test_accuracy"]["n"] == 6
    assert "zskd: note: a fifth of the images" in captured.err


def test_agreement_on_the_images_of_the_training_says_so(
    teacher_folder: Path, small_set: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small_set.folder  # type: ignore[attr-defined]
    distilled = ["distill", str(teacher_folder), str(folder), "--distill.steps", "2", "--no-estimate"]
    assert run([*distilled, "--out", str(tmp_path / "student")]) == 0
    capsys.readouterr()
    measured = ["evaluate", str(tmp_path / "student"), "--teacher", str(teacher_folder), "--no-estimate"]
    assert run([*measured, "--set", str(folder)]) == 0
    assert f"on {folder}, which the student learned from" in capsys.readouterr().out


def test_pixels_of_16_bits_are_rounded(tmp_path: Path) -> None:
    pixels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = 255 * read_image(tmp_path / "a.png", (1, 256, 256))[0]
    assert np.abs(read - pixels / 257).max() <= 0.5 + 1e-4
    fractions = (np.arange(256, dtype=np.float32) / 255).reshape(16, 16)
    Image.fromarray(fractions).save(tmp_path / "a.tiff")
    assert np.array_equal(read_image(tmp_path / "a.tiff", (1, 16, 16))[0], fractions)


def test_a_picture_without_an_answer_is_left_out_of_a_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, net = own_network(DIVIDES, tmp_path / "own"), str(tmp_path / "t")
    assert run(["teacher", "import", source, "--shape", "1", "8", "8", "--out", net]) == 0
    for number in range(5):
        draw(tmp_path / "mine" / f"{number}.png", number)
    Image.fromarray(np.zeros(SHAPE[1:], dtype=np.uint8)).save(tmp_path / "mine" / "one.png")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(
            ["check", str(tmp_path / "t"), str(tmp_path / "mine"), "--teacher", str(tmp_path / "t"), "--json"]
        )
    assert ended.value.code == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["pictures"] == 5
    assert [Path(one).name for one in found["not_readable"]] == ["one.png"]
    assert "one.png: an output of " in captured.err


# which classes


def test_classes_of_other_names_are_matched_by_their_order_and_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = matched_by_order(("bird", "cat"), ("Katze", "Vogel"))
    assert line == "classes are matched by their order: Katze → bird, Vogel → cat"
    assert matched_by_order(("bird", "cat"), ("cat", "bird")) is None, "the names are the same"
    assert matched_by_order(("bird", "cat"), ("0", "1")) is None
    assert matched_by_order(("0", "1"), ("bird", "cat")) is None
    student = checkpoint(tmp_path / "net", 0, how="imported")
    tree(tmp_path / "data" / "test", ("Hund", "Katze", "Vogel"))
    assert run(["evaluate", student, "--data.name", "folder", "--data-dir", str(tmp_path / "data")]) == 0
    told = "matched by their order: Hund → cat, Katze → dog, Vogel → bird"
    assert told in capsys.readouterr().err
    tree(tmp_path / "data" / "train", ("Hund", "Katze", "Vogel"), each=12)
    asked = ["run", "my-teacher", "--teacher.path", student, "--data.name", "folder", "--count", "30"]
    sizes = [
        "--distill.steps",
        "2",
        "--student",
        "mlp(widths=(4,))",
        "--held-out",
        "20",
        "--controls",
        "none",
    ]
    placed = ["--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert run([*asked, *sizes, *placed]) == 0
    assert told in capsys.readouterr().err


def test_folders_that_are_numbers_are_not_guessed_for_more_than_ten_classes(tmp_path: Path) -> None:
    files = [tmp_path / name / "a.png" for name in ("0", "2", "10")]
    with pytest.raises(ZskdError, match="are numbers, and the network's classes have no names"):
        classes_of_files(tmp_path, files, tuple(map(str, range(12))))
    assert classes_of_files(tmp_path, files[:2], tuple(map(str, range(10)))) == [0, 2]
    padded = [tmp_path / name / "a.png" for name in ("00", "02", "10")]
    assert classes_of_files(tmp_path, padded, tuple(f"{k:02d}" for k in range(12))) == [0, 2, 10]


# before any work


@pytest.mark.parametrize("verb", ["evaluate", "similarity"])
def test_results_take_the_place_of_earlier_results_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    net = checkpoint(tmp_path / "net", 0, how="imported")
    mine = tmp_path / "net" / "card.json"
    before = mine.read_bytes()
    assert run([verb, net, "--out", str(mine)]) == 2
    assert "is there already and holds no such results" in capsys.readouterr().err
    assert mine.read_bytes() == before
    for _ in range(2):
        assert run([verb, net, "--out", str(tmp_path / "found.json")]) == 0


def test_wrong_pictures_and_features_are_refused_before_the_folder_is_claimed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = checkpoint(tmp_path / "net", 0, how="imported")
    tree(tmp_path / "few", ("cat", "dgo"), each=2)
    asked = ["run", "my-teacher", "--teacher.path", net, "--out", str(tmp_path / "run")]
    few = ["--few", str(tmp_path / "few"), "--distill.label-weight", "0.5", "--distill.augment.mixup", "0"]
    assert run([*asked, *few, "--distill.augment.cutmix", "0"]) == 2
    assert "the folder 'dgo', which is no class" in capsys.readouterr().err
    layers = ["--distill.features.weight", "1", "--distill.features.layers", "stages"]
    assert run([*asked, *layers, "--student", "mlp(widths=(4,))"]) == 2
    assert "no stages with features" in capsys.readouterr().err
    assert not (tmp_path / "run" / "recipe.yaml").exists()
