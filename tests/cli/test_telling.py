"""What programs are told: one JSON document on standard output; and folders of pictures."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zskd.cli.main import main as run
from zskd.data.datasets import Dataset
from zskd.models.checkpoint import Card, load_checkpoint, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe, fresh_weights
from zskd.run.metrics import read_metrics
from zskd.run.recorded import recorded_estimate
from zskd.transfer_set.dataset import TransferSet

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pictures(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty test images of digits, in folders by class."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(30):
        pixels = (255 * digits.test.images[number, 0]).round().to(torch.uint8).numpy()
        folder = root / str(int(digits.test.labels[number]))
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def ill_or_not(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two classes with random weights."""
    shape = (1, 8, 8)
    architecture = describe("mlp(widths=(8,))", shape=shape, classes=2)
    module = fresh_weights(lambda: build(architecture, run_code=False), seed=0)
    classifier = Classifier(module, spec=InputSpec(shape=shape), class_names=("healthy", "ill"))
    folder = tmp_path_factory.mktemp("two") / "student"
    return save_checkpoint(classifier, Card(architecture=architecture, origin={"how": "distilled"}), folder)


def told(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[Any, str]:
    """The document that a command prints, and what it prints on standard error."""
    arguments = (*map(str, arguments), "--json")
    if code == 1:
        with pytest.raises(SystemExit) as ended:
            run(list(arguments))
        assert ended.value.code == 1
    else:
        assert run(list(arguments)) == code
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def test_facts_of_a_teacher(teacher_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = told(capsys, "inspect", teacher_folder)
    assert (found["network"], found["parameters"], found["multiply_adds"]) == ("lenet5", 61_706, 416_520)
    assert found["input"]["shape"] == [1, 32, 32]
    assert found["costs"]["teacher"]["parameters"] == 61_706
    assert np.array(found["similarity"]).shape == (10, 10)
    similar, _ = told(capsys, "similarity", teacher_folder)
    assert similar["similarity"] == found["similarity"]
    assert similar["class_names"] == found["class_names"] == [str(digit) for digit in range(10)]


def test_results_of_each_stage(
    teacher_folder: Path,
    small_set: TransferSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    made, _ = told(
        capsys, "synthesize", teacher_folder, "--count", 20, "--method", "noise", "--out", "set", "--quiet"
    )
    assert (made["folder"], made["images"], made["others"], made["kind"]) == ("set", 20, 20, "noise")
    short = ("--distill.steps", 2, "--distill.start", "random", "--no-estimate", "--quiet")
    student, _ = told(capsys, "distill", teacher_folder, small_set.folder, "--out", "student", *short)
    assert student["cost"]["student"]["parameters"] == student["parameters"] == 35_820
    measured, _ = told(
        capsys,
        "evaluate",
        "student",
        "--teacher",
        teacher_folder,
        "--set",
        "set",
        "--data.name",
        "digits",
        "--no-estimate",
    )
    assert measured["test_accuracy"]["n"] == 500
    assert measured["set_agreement"]["n"] == 20
    assert set(measured["test_accuracy_by_class"]) == set(map(str, range(10)))
    whole, _ = told(capsys, "verify", "set", "student")
    assert whole["whole"] == [
        {"folder": "set", "kind": "set", "shards": 1},
        {"folder": "student", "kind": "checkpoint", "shards": None},
    ]


def test_results_and_progress_of_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    results = ROOT / "results"
    found, _ = told(capsys, "report", "digits", "--results", results)
    records = [json.loads(path.read_text("utf-8")) for path in sorted((results / "digits").glob("*.json"))]
    assert found["records"] == len(records)
    for one in found["results"]:
        same = [r for r in records if (r["arm"], r.get("rate")) == (one["arm"], one["rate"])]
        accuracies = [r["test_accuracy"] for r in same]
        assert (one["n"], one["mean"]) == (len(same), pytest.approx(np.mean(accuracies)))
    assert sum(one["n"] for one in found["results"]) == len(records)
    shutil.copy(results / "students.json", tmp_path / "metrics.json")
    assert told(capsys, "report", tmp_path)[0] == json.loads((results / "students.json").read_text("utf-8"))
    assert run(["report", "digits", "--format", "csv", "--json"]) == 2
    assert "leave out --format and --out" in capsys.readouterr().err
    for one in found["comparisons"]:
        assert one["p_holm"] is None or one["p_holm"] >= one["p"]
    progress, _ = told(capsys, "reproduce", "digits", "--status", "--results", results)
    assert set(progress["cells"].values()) == {"done"}
    assert len(progress["cells"]) == len(records)
    assert progress["seconds_left"] == 0


def test_nothing_but_the_error_is_told_of_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", "nowhere", "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("zskd: error: ")


def test_a_folder_is_classified_and_a_broken_file_is_left_out(
    teacher_folder: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(pictures, tmp_path / "p"))
    (root / "0" / "broken.png").write_bytes(b"no picture")
    (root / "notes.txt").write_text("no picture either")
    found, error = told(capsys, "predict", teacher_folder, root, "--top", 2, code=1)
    files = [one["file"] for one in found["pictures"]]
    assert files == sorted(str(path) for path in root.rglob("[0-9][0-9].png"))
    assert found["not_readable"] == [str(root / "0" / "broken.png")]
    assert error.splitlines()[0].startswith(f"{root / '0' / 'broken.png'} is no readable picture")
    assert error.endswith("it is left out\n")
    right = sum(one["classes"][0]["name"] == Path(one["file"]).parent.name for one in found["pictures"])
    assert right >= 27
    # in batches as one by one
    classifier, _ = load_checkpoint(teacher_folder)
    alone = torch.from_numpy(np.asarray(Image.open(files[7]), dtype=np.float32) / 255)[None, None]
    best = classifier.freeze()(alone).softmax(1).max()
    assert found["pictures"][7]["classes"][0]["probability"] == pytest.approx(float(best), rel=1e-5)
    with pytest.raises(SystemExit):
        run(["predict", str(teacher_folder), files[7], str(root / "0"), "--top", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{files[7]}  {found['pictures'][7]['classes'][0]['name']} {float(best):.3f}"
    assert [line.partition("  ")[0] for line in lines[1:]] == [
        one for one in files if Path(one).parent.name == "0"
    ]


def test_a_student_is_checked_on_labelled_pictures(
    teacher_folder: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, error = told(capsys, "check", teacher_folder, pictures, "--teacher", teacher_folder)
    assert error == ""
    assert (found["pictures"], found["agreement"]["percent"]) == (30, 100)
    assert found["student"] == found["teacher"]
    assert sum(one["n"] for one in found["teacher"]["recall"].values()) == 30
    assert (found["estimate"], found["sentence"]) == (None, None)  # it was trained on real images
    assert run(["check", str(teacher_folder), str(pictures), "--teacher", str(teacher_folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "agreement of student and teacher  100.00 % [88.43, 100.00] of 30"
    assert max(map(len, lines)) <= 110
    assert any(line.startswith("recall of 3, %") for line in lines)


def test_two_classes_and_pictures_without_labels(
    ill_or_not: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = np.random.default_rng(0)
    for name in ("healthy", "ill"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "other" / "a").mkdir(parents=True, exist_ok=True)
        for number in range(4):
            picture = Image.fromarray(drawn.integers(0, 255, (8, 8), dtype=np.uint8))
            picture.save(tmp_path / "mine" / name / f"{number}.png")
            picture.save(tmp_path / "other" / "a" / f"{name}{number}.png")
    usual = ("--teacher", ill_or_not, "--no-estimate")
    found, _ = told(capsys, "check", ill_or_not, tmp_path / "mine", *usual, "--positive", "healthy")
    two = found["student"]["two_classes"]
    assert two["positive"] == "healthy"
    assert (two["sensitivity"]["n"], two["area"]["negative"]) == (4, 4)
    assert run(["check", str(ill_or_not), str(tmp_path / "mine"), *map(str, usual)]) == 0
    text = capsys.readouterr().out
    assert "positive class: ill\n" in text
    assert "area under ROC (AUC)" in text
    found, error = told(capsys, "check", ill_or_not, tmp_path / "other", *usual)
    assert error.startswith("without labels: no folder in ")
    assert found["student"] is None
    assert found["pictures"] == 8
    (tmp_path / "mine" / "sick").mkdir()
    shutil.copy(tmp_path / "mine" / "ill" / "0.png", tmp_path / "mine" / "sick" / "0.png")
    assert run(["check", str(ill_or_not), str(tmp_path / "mine"), *map(str, usual)]) == 2
    assert "the folder 'sick', which is no class" in capsys.readouterr().err


def test_an_exported_file_predicts_as_its_checkpoint(
    ill_or_not: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    drawn = np.random.default_rng(3)
    Path("mine").mkdir()
    for number in range(5):
        Image.fromarray(drawn.integers(0, 255, (8, 8), dtype=np.uint8)).save(f"mine/{number}.png")
    assert run(["export", str(ill_or_not), "--to", "onnx", "--out", "student.onnx"]) == 0
    capsys.readouterr()
    (there, _), (exported, _) = (told(capsys, "predict", one, "mine") for one in (ill_or_not, "student.onnx"))
    for one, other in zip(there["pictures"], exported["pictures"], strict=True):
        assert one["file"] == other["file"]
        assert other["classes"][0]["name"] == one["classes"][0]["name"]
        assert other["classes"][0]["probability"] == pytest.approx(one["classes"][0]["probability"], abs=1e-5)
    found, _ = told(capsys, "check", "student.onnx", "mine", "--teacher", ill_or_not)
    assert (found["agreement"]["percent"], found["estimate"]) == (100, None)
    Path("other.onnx").write_bytes(b"no network")
    assert run(["predict", "other.onnx", "mine"]) == 2
    assert "onnxruntime cannot run other.onnx" in capsys.readouterr().err


def test_the_estimate_of_a_run_is_that_of_the_student(tmp_path: Path) -> None:
    shutil.copy(ROOT / "results" / "students.json", tmp_path / "metrics.json")
    (tmp_path / "sources.json").write_text("{}")
    metrics = read_metrics(tmp_path / "metrics.json")
    names = ("zskd", "zskd@narrow-0.25", "zskd@narrow-0.1", "zskd@mlp-widths-64-32")
    found = [recorded_estimate(tmp_path / "students" / name) for name in names]
    assert found == [one.estimated_agreement for one in metrics.sizes]
    assert len({None if one is None else one.percent for one in found}) > 1
    of_teacher = metrics.teacher.sha256
    assert recorded_estimate(tmp_path / "students" / "zskd", teacher_sha256=of_teacher) == found[0]
    assert recorded_estimate(tmp_path / "students" / "zskd", teacher_sha256="0" * 64) is None
    assert recorded_estimate(tmp_path / "students" / "another") is None
    assert recorded_estimate(tmp_path / "sets" / "zskd") is None
    assert recorded_estimate(tmp_path) is None
