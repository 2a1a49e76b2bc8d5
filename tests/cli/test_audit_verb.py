"""`zskd audit` on folders of pictures: what is printed, what programs are told, and mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zskd.cli.main import main as run
from zskd.data.datasets import Split
from zskd.models.checkpoint import Card, load_checkpoint, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe, fresh_weights
from zskd.synthesis.real import build_real_set

SHAPE, NAMES, EACH = (1, 8, 8), ("healthy", "ill"), 55


def save(names: tuple[str, ...], seed: int, folder: Path) -> Path:
    architecture = describe("mlp(widths=(8,))", shape=SHAPE, classes=len(names))
    module = fresh_weights(lambda: build(architecture, run_code=False), seed=seed)
    classifier = Classifier(module, spec=InputSpec(shape=SHAPE), class_names=names)
    return save_checkpoint(classifier, Card(architecture=architecture, origin={"how": "distilled"}), folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teacher, student, two groups of pictures with and without folders of classes, and a transfer set."""
    root = tmp_path_factory.mktemp("audit")
    save(NAMES, 0, root / "teacher")
    save(NAMES, 1, root / "student")
    save(("0", "1"), 1, root / "numbered")
    save(("a", "b", "c"), 2, root / "three")
    drawn = np.random.default_rng(0)
    for group in ("members", "others"):
        for name in NAMES:
            (root / group / name).mkdir(parents=True)
            (root / f"flat-{group}").mkdir(exist_ok=True)
            for number in range(EACH):
                picture = Image.fromarray(drawn.integers(0, 255, SHAPE[1:], dtype=np.uint8))
                picture.save(root / group / name / f"{number:02d}.png")
                picture.save(root / f"flat-{group}" / f"{name}-{number:02d}.png")
    (root / "few").mkdir()
    Image.fromarray(drawn.integers(0, 255, SHAPE[1:], dtype=np.uint8)).save(root / "few" / "0.png")
    teacher, _ = load_checkpoint(root / "teacher")
    split = Split(torch.rand(40, *SHAPE, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2)
    build_real_set(teacher, split, root / "set", count=40)
    return root


@pytest.fixture(autouse=True)
def inside(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)


GROUPS = ("--members", "members", "--others", "others")


def test_the_table_is_narrow_and_sentences_tell_what_it_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", "student", *GROUPS, "--teacher", "teacher", "--set", "set"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    tests = [f"{of}, {by}" for of in ("teacher", "student") for by in ("loss", "likelihood")]
    tests += ["impressions, pixels", "impressions, features"]
    assert [line[: len(name)] for line, name in zip(lines[3:], tests, strict=False)] == tests
    assert "110 + 110" in lines[3]
    text = " ".join(lines)
    assert "0.5 is chance" in text
    assert "Labels are the class folders." in text
    assert "is found in outputs of the student (" in text
    assert "Impressions are not nearer to members than to others" in text
    assert "(root mean square)." in text


def test_programs_are_told_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", "student", *GROUPS, "--reference", "teacher", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["labels", "tests", "nearest", "sentences", "not_readable"]
    assert (found["labels"], found["nearest"], found["not_readable"]) == ("given", None, [])
    assert [(one["of"], one["by"]) for one in found["tests"]] == [
        ("student", "loss"),
        ("student", "likelihood"),
        ("reference", "loss"),
    ]
    first = found["tests"][0]
    assert (first["area"]["positive"], first["area"]["negative"], first["found"]["n"]) == (110, 110, 110)
    assert 0 <= first["area"]["low"] <= first["area"]["area"] <= first["area"]["high"] <= 1


def test_folders_are_named_after_the_classes_of_the_teacher(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for student in ("student", "numbered"):
        assert run(["audit", student, *GROUPS, "--teacher", "teacher", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert found[0]["labels"] == "given"


def test_a_flat_folder_has_no_labels_and_a_broken_picture_is_left_out(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "flat-others" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as ended:
        run(["audit", "student", "--members", "flat-members", "--others", "flat-others"])
    assert ended.value.code == 1
    captured = capsys.readouterr()
    (files / "flat-others" / "broken.png").unlink()
    assert "is the class that the student predicts" in " ".join(captured.out.split())
    assert captured.err.count("\n") == 1
    assert "it is left out" in captured.err
    arguments = ["audit", "student", "--members", "flat-members", "--others", "flat-others", "--json"]
    assert run([*arguments, "--teacher", "teacher"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == "teacher"


BAD = {
    "no student": (["nowhere", *GROUPS], "nowhere"),
    "no members": (["student", "--others", "others"], "--members"),
    "missing folder": (["student", "--members", "nowhere", "--others", "others"], "no folder nowhere"),
    "same folder": (
        ["student", "--members", "members", "--others", "members"],
        "pictures, such as members",
    ),
    "one inside the other": (
        ["student", "--members", "members/ill", "--others", "members"],
        "pictures, such as members",
    ),
    "labels in one": (
        ["student", "--members", "members", "--others", "flat-others"],
        "members has folders named after classes and flat-others has none",
    ),
    "too few": (["student", "--members", "few", "--others", "flat-others"], "give at least 20"),
    "no set": (["student", *GROUPS, "--set", "nowhere"], "nowhere"),
    "no set but a teacher": (["student", *GROUPS, "--set", "teacher"], "teacher"),
    "another teacher": (
        ["student", *GROUPS, "--teacher", "three"],
        "teacher has 3 classes and the student 2",
    ),
    "another reference": (["student", *GROUPS, "--reference", "three"], "the reference has 3 classes"),
    "no teacher": (["student", *GROUPS, "--teacher", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_mistake_ends_with_one_line_and_code_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, expected = BAD[name]
    assert run(["audit", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("zskd: error: ")
    assert expected in line
