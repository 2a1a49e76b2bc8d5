"""Folders, pictures and settings that verbs get: names as they may be written, answers that are none."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from zskd.cli.main import main as run
from zskd.config.data import DataConfig
from zskd.config.loading import load_recipe, override
from zskd.core.errors import ZskdError
from zskd.data.datasets import Split, load_data
from zskd.data.folder import class_of_each, picture_files, read_folder
from zskd.data.pictures import labelled_files
from zskd.evaluation.check import check_student
from zskd.evaluation.figures import Bar, bars_figure, save_figure, similarity_figure
from zskd.evaluation.gain import _that_fit_memory
from zskd.evaluation.statistics import share_of
from zskd.experiment.record import read_record
from zskd.experiment.report.curves import curves_figure
from zskd.experiment.report.tables import Records
from zskd.models.chain import read_layers
from zskd.models.checkpoint import Card, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import Layers
from zskd.synthesis.real import build_real_set
from zskd.transfer_set.export.imagefolder import export_imagefolder
from zskd.tuning.journal import read_journal
from zskd.tuning.space import read_space
from zskd.tuning.study import tune

SHAPE = (1, 8, 8)
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "größe") for form in ("NFC", "NFD"))
TWO = (COMPOSED, "weite")
SHOES = ("T-shirt/top", "Trouser")


def network(names: tuple[str, ...] = TWO, shape: tuple[int, int, int] = SHAPE) -> Classifier:
    torch.manual_seed(0)
    pixels = shape[0] * shape[1] * shape[2]
    module = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), nn.ReLU(), nn.Linear(8, len(names)))
    return Classifier(module, spec=InputSpec(shape=shape), class_names=names).freeze()


def checkpoint(folder: Path, names: tuple[str, ...] = TWO, shape: tuple[int, int, int] = SHAPE) -> Path:
    classifier = network(names, shape)
    layers = Layers(layers=tuple(read_layers(classifier.module)))
    return save_checkpoint(classifier, Card(architecture=layers), folder)


def pictures(root: Path, *folders: str, count: int = 2) -> Path:
    drawn = np.random.default_rng(len(str(root)))
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for number in range(count):
            pixels = drawn.integers(0, 256, SHAPE[1:], dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return root


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = run([str(word) for word in words])
    except SystemExit as ended:
        code = int(ended.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# -- devices


def test_large_images_are_counted_where_the_network_is() -> None:
    """Tensors of the device `meta` do not mix with those of the CPU, either."""
    assert _that_fit_memory([network(shape=(1, 72, 72)).to("meta")]) == 64


# -- folders of classes


def test_folders_of_a_mac_label_the_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path / "mine", DECOMPOSED, "weite")
    files, labels = labelled_files(root, TWO)
    assert labels is not None
    assert {path.parent.name: int(label) for path, label in zip(files, labels, strict=True)} == {
        DECOMPOSED: 0,
        "weite": 1,
    }
    student = checkpoint(tmp_path / "student")
    code, out, err = told(capsys, "check", student, "--teacher", student, "--no-estimate", "--json", root)
    assert (code, err) == (0, "")
    assert set(json.loads(out)["student"]["recall"]) == set(TWO)


def test_training_folders_may_be_composed_and_test_folders_not(tmp_path: Path) -> None:
    pictures(tmp_path / "train", COMPOSED, "weite", count=10)
    pictures(tmp_path / "test", DECOMPOSED, "weite", count=3)
    data = load_data(DataConfig(name="folder", dir=tmp_path, validation=0), SHAPE)
    assert data.class_names == (COMPOSED, "weite")
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    expected, _ = read_folder(tmp_path / "test", (DECOMPOSED, "weite"), SHAPE)
    assert torch.equal(data.test.images, torch.from_numpy(expected))


def test_one_class_in_two_folders_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path, COMPOSED, DECOMPOSED)
    with pytest.raises(ZskdError, match="two folders größe whose letters are stored differently: join them"):
        load_data(DataConfig(name="folder", dir=tmp_path), SHAPE)


@pytest.mark.parametrize("first", ["0_T-shirt_top", "T-shirt/top", "T-shirt/top/of July"])
def test_a_class_with_a_slash_is_labelled(
    first: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pictures(tmp_path / "mine", first, "Trouser")
    assert class_of_each(root, picture_files(root), SHOES).bincount().tolist() == [2, 2]
    student = checkpoint(tmp_path / "student", SHOES)
    code, out, err = told(capsys, "check", student, "--teacher", student, "--no-estimate", "--json", root)
    assert (code, err) == (0, "")
    assert set(json.loads(out)["student"]["recall"]) == set(SHOES)


def test_the_folders_of_an_exported_set_label_its_pictures(tmp_path: Path) -> None:
    names = ("Trouser", "T-shirt/top", "Bag")
    teacher, labels = network(names), torch.tensor([0, 0, 1, 2, 2, 2])
    made = build_real_set(teacher, Split(torch.rand(6, *SHAPE), labels), tmp_path / "set", count=6)
    export_imagefolder(teacher, made, tmp_path / "pictures")
    _, found = labelled_files(tmp_path / "pictures", names)
    assert found is not None
    assert found.tolist() == [0, 0, 1, 2, 2, 2]


def test_a_folder_of_no_class_is_still_refused_beside_one_with_a_slash(tmp_path: Path) -> None:
    root = pictures(tmp_path, "T-shirt/top", "T-shirt/bottom")
    with pytest.raises(ZskdError, match="is in the folder 'T-shirt', which is no class"):
        labelled_files(root, SHOES)
    assert labelled_files(root, ("a", "b"))[1] is None


# -- experiments and searches

PLAN: dict[str, Any] = {
    "name": "tiny",
    "recipe": "digits",
    "arms": {"noise": {"title": "noise", "settings": {"method": "noise"}}},
    "plan": [{"arms": ["noise"], "rates": [10], "seeds": 1}],
}


@pytest.mark.parametrize("verb", [["reproduce", "--dry-run"], ["report"]])
@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"at": {"10": 989}}, "reported.0.at.10: "),
        ({"at": {"10": float("nan")}}, "reported.0.at.10: "),
        ({"source": ""}, "reported.0.source: "),
    ],
)
def test_a_wrong_published_number_is_one_line_that_names_it(
    changes: dict[str, Any],
    where: str,
    verb: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    reported = {"arm": "noise", "source": "Paper", "at": {"10": 98.9}} | changes
    Path("tiny.yaml").write_text(yaml.safe_dump(PLAN | {"reported": [reported]}))
    code, _, err = told(capsys, *verb, "tiny.yaml")
    assert code == 2
    (line,) = err.splitlines()
    assert f"tiny.yaml: {where}" in line


def test_the_journal_of_a_search_is_read_again_whatever_text_its_errors_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_loss.py").write_text("def bad(*_):\n    raise ValueError('\\x1b[31mbad \\udcff')\n")
    settings: dict[str, Any] = {
        "threads": 1,
        "workers": 1,
        "count": 20,
        "method": "noise",
        "student": "mlp(widths=(4,))",
        "teacher": {"model": "mlp(widths=(4,))", "shape": [1, 8, 8], "epochs": 1},
        "distill": {"steps": 2, "start": "random"},
    }
    found = tune(
        lambda more: load_recipe("digits", override(settings, more)),
        read_space(None, ["distill.loss=kl,own_loss.py:bad"]),
        tmp_path / "search",
        trials=2,
        sampler="grid",
        results=tmp_path / "results",
    )
    errors = [trial.error for trial in found.trials]
    assert sorted(map(str, errors)) == ["None", r"ValueError: \x1b[31mbad \udcff"]
    assert read_journal(tmp_path / "search" / "tuning.jsonl") == found.trials


# -- verbs

STANDARDISING = """
from torch import nn


class Standardised(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

    def forward(self, images):
        deviation = images.std((1, 2, 3), keepdim=True)
        return self.layers((images - images.mean((1, 2, 3), keepdim=True)) / deviation)
"""


def test_a_picture_without_numbers_is_left_out_of_the_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_net.py").write_text(STANDARDISING)
    weights = {"layers.1.weight": torch.randn(2, 64), "layers.1.bias": torch.zeros(2)}
    torch.save(weights, "net.pt")
    how = ["--shape", "1", "8", "8", "--mean", "0", "--std", "1", "--out", "net"]
    assert told(capsys, "teacher", "import", "own_net.py:Standardised@net.pt", *how)[0] == 0
    root = pictures(Path("mine"), "any", count=3)
    Image.fromarray(np.full(SHAPE[1:], 77, np.uint8)).save(root / "any" / "1.png")
    asked = ["predict", "net", root, "--model", "own_net.py:Standardised"]
    code, out, err = told(capsys, *asked)
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["mine/any/0.png", "mine/any/2.png"]
    assert err == "mine/any/1.png: an output of the network is not a number; it is left out\n"
    code, out, _ = told(capsys, *asked, "--json")
    document = json.loads(out)
    assert code == 1
    assert [one["file"] for one in document["pictures"]] == ["mine/any/0.png", "mine/any/2.png"]
    assert document["not_readable"] == ["mine/any/1.png"]


@pytest.mark.parametrize(
    "option", [["--data.twin", "inverted"], ["--data.validation", "0.1"], ["--data-dir", "x"]]
)
def test_a_data_option_without_a_data_set_is_refused(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = checkpoint(tmp_path / "student")
    code, out, err = told(capsys, "evaluate", student, *option)
    assert (code, out) == (2, "")
    assert "are for a data set: name it, as in --data.name folder" in err
    assert "accuracy not measured" in told(capsys, "evaluate", student, "--data.name", "none")[1]


@pytest.mark.parametrize(
    ("name", "channels", "advice"),
    [
        ("digits", 3, "choose other data, such as digits-colour, or another network"),
        ("digits-colour", 1, "choose other data, such as digits, or another network"),
        ("digits", 5, "choose other data, --data.name none, or another network"),
        ("digits-pairs", 2, "choose other data, --data.name none, or another network"),
    ],
)
def test_data_of_other_channels_is_offered_where_it_fits(name: Any, channels: int, advice: str) -> None:
    with pytest.raises(ZskdError, match=f"{advice}$"):
        load_data(DataConfig(name=name), (channels, 8, 8))


def test_a_shape_that_the_inputs_do_not_have_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, inputs, out = checkpoint(tmp_path / "t"), tmp_path / "x.npy", tmp_path / "golden.npz"
    np.save(inputs, np.random.default_rng(0).random((2, *SHAPE), dtype=np.float32))
    asked = ["golden", teacher, "--inputs", inputs, "--out", out, "--shape"]
    code, _, err = told(capsys, *asked, 1, 9, 9)
    assert code == 2
    assert f"--shape is (1, 9, 9) and {inputs} has images of (1, 8, 8): leave --shape out" in err
    assert told(capsys, *asked, *SHAPE)[0] == 0


def test_a_picture_of_fewer_samples_than_asked_for_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("zskd.run.page.MOST_SAMPLES", 3)
    images = Split(torch.rand(12, *SHAPE), torch.arange(12) % 2)
    build_real_set(network(), images, tmp_path / "set", count=12)
    asked = ["show", "samples", tmp_path / "set", "--out", tmp_path / "a.png", "--class", "weite"]
    assert told(capsys, *asked, "--per-class", 4)[1].splitlines()[1:] == ["it shows no more than 3 images"]
    assert told(capsys, *asked, "--per-class", 3)[1].splitlines()[1:] == []
    monkeypatch.setattr("zskd.run.page.MOST_SAMPLES", 12)  # as many as there are
    assert told(capsys, *asked[:-2], "--per-class", 2**62)[1].splitlines()[1:] == []


def test_networks_of_other_images_are_not_compared() -> None:
    with pytest.raises(ZskdError, match=r"the teacher takes images of \(1, 9, 9\) and the student of \(1, 8"):
        check_student(network(shape=(1, 9, 9)), network(), torch.rand(2, *SHAPE))


# -- drawings

MONEY = r"$\frac$ 5"
RECORD = Path(__file__).parents[2] / "results" / "digits" / "default-10-0.json"


def test_dollars_in_names_and_titles_are_dollars(tmp_path: Path) -> None:
    found = read_record(RECORD)
    figures = {
        3: bars_figure([Bar(MONEY, share_of(1, 2), True)], (MONEY, share_of(1, 1)), MONEY),
        5: similarity_figure(np.eye(2), (MONEY, MONEY), MONEY),
        2: curves_figure(Records([found], {found.arm: MONEY}), [found.arm], MONEY),
    }
    for count, figure in figures.items():
        drawn = save_figure(figure, tmp_path / f"{count}.svg").read_text("utf-8")
        assert drawn.count(MONEY) == count
