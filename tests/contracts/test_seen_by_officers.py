"""What people met who want evidence, who bring the files of others, and who write methods of their own."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from zskd.cli.main import main as run
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.errors import ZskdError
from zskd.export.onnx import export_onnx
from zskd.models.chain import read_layers
from zskd.models.checkpoint import Card, Origin, load_checkpoint, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import Layers
from zskd.report.gallery import make_gallery
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.teacher.opening import open_teacher
from zskd.tuning.space import read_space

SHAPE, NAMES = (1, 8, 8), ("benign", "malign")
SPEC = InputSpec(shape=SHAPE, mean=(0.3,), std=(0.2,))
CODE = """
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2))
"""


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2))


def checkpoint(folder: Path, seed: int = 0, origin: Origin | None = None) -> Path:
    classifier = Classifier(network(seed), spec=SPEC, class_names=NAMES).freeze()
    layers = Layers(layers=tuple(read_layers(classifier.module)))
    return save_checkpoint(classifier, Card(architecture=layers, origin=origin or Origin()), folder)


def pictures(folder: Path, seed: int, count: int = 24, names: tuple[str, ...] = NAMES) -> Path:
    rng = np.random.default_rng(seed)
    for number in range(count):
        path = folder / names[number % len(names)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, SHAPE[1:], dtype=np.uint8)).save(path)
    return folder


def own_code(monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """Write a network's code and weights, and return the source that names both."""
    monkeypatch.chdir(folder)
    Path("net.py").write_text(CODE)
    torch.save(network().state_dict(), "net.pt")
    return "net.py:build@net.pt"


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# -- evidence


def test_a_teacher_that_is_no_checkpoint_takes_what_its_student_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same network agrees with itself, whatever its source is."""
    source, same = own_code(monkeypatch, tmp_path), checkpoint(tmp_path / "same")
    members, others = pictures(tmp_path / "members", 1), pictures(tmp_path / "others", 2)
    both = ["check", same, members, "--no-estimate", "--json", "--teacher"]
    code, out, err = told(capsys, *both, source)
    assert (code, err) == (0, "")
    assert json.loads(out)["agreement"]["percent"] == 100
    assert out == told(capsys, *both, same)[1]
    both = ["audit", same, "--members", members, "--others", others, "--json", "--teacher"]
    code, out, err = told(capsys, *both, source)
    assert (code, err) == (0, "")
    assert out == told(capsys, *both, same)[1]


def test_an_onnx_file_does_not_tell_what_its_teacher_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = own_code(monkeypatch, tmp_path)
    export_onnx(load_checkpoint(checkpoint(tmp_path / "same"))[0], "student.onnx")
    folder = pictures(tmp_path / "pictures", 0)
    code, _, err = told(capsys, "check", "student.onnx", folder, "--teacher", source)
    assert code == 2, err
    assert "make a checkpoint of it first with zskd teacher import" in err


@pytest.mark.parametrize("verb", ["check", "audit", "evaluate"])
def test_another_teacher_than_the_student_s_is_told(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, other = checkpoint(tmp_path / "own"), checkpoint(tmp_path / "other", seed=1)
    teacher = load_checkpoint(own)[0].freeze()
    origin = Origin(how="distilled", teacher_sha256=teacher.fingerprint())
    student = checkpoint(tmp_path / "student", seed=2, origin=origin)
    made = build_transfer_set(teacher, SetSpec(method="noise", count=30), tmp_path / "set", workers=1)
    members, others = pictures(tmp_path / "members", 1), pictures(tmp_path / "others", 2)
    words: dict[str, list[object]] = {
        "check": ["check", student, members, "--no-estimate"],
        "audit": ["audit", student, "--members", members, "--others", others, "--set", made.folder],
        "evaluate": ["evaluate", student, "--set", made.folder, "--no-estimate"],
    }
    code, _, err = told(capsys, *words[verb], "--teacher", own)
    assert (code, err) == (0, "")
    code, _, err = told(capsys, *words[verb], "--teacher", other)
    assert code == 0
    assert "this student was distilled from another teacher than the given one" in err
    assert ("was made with another teacher" in err) == (verb != "check")


def test_copies_among_members_and_others_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = checkpoint(tmp_path / "student")
    members, others = pictures(tmp_path / "members", 1), pictures(tmp_path / "others", 2)
    twice = next(members.rglob("*.png"))
    (others / "benign" / "copied.png").write_bytes(twice.read_bytes())
    code, _, err = told(capsys, "audit", student, "--members", members, "--others", others)
    assert code == 2
    assert f"share 1 pictures, such as {twice} and" in err
    code, _, err = told(capsys, "audit", student, "--members", members, "--others", members)
    assert code == 2
    assert "share 24 pictures" in err


def test_an_audit_does_not_wait_for_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = checkpoint(tmp_path / "student")
    members, others = pictures(tmp_path / "members", 1), pictures(tmp_path / "others", 2)
    os.mkfifo(members / "benign" / "pipe.png")
    assert told(capsys, "audit", student, "--members", members, "--others", others)[0] == 0


def test_what_is_audited_is_no_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student, teacher = checkpoint(tmp_path / "student"), checkpoint(tmp_path / "teacher", seed=1)
    members, others = pictures(tmp_path / "members", 1), pictures(tmp_path / "others", 2)
    words = ["audit", student, "--members", members, "--others", others, "--teacher", teacher, "--reference"]
    for reference in (student, teacher):
        code, _, err = told(capsys, *words, reference)
        assert code == 2
        assert "the reference is a network that is audited" in err
    assert told(capsys, *words, checkpoint(tmp_path / "third", seed=3))[0] == 0


def test_folders_that_only_look_like_classes_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = checkpoint(tmp_path / "student")
    names = ("Benign", "Malign")
    inside, outside = (
        pictures(tmp_path / name, seed, names=names) for seed, name in enumerate(("in", "out"))
    )
    code, _, err = told(capsys, "audit", student, "--members", inside, "--others", outside)
    assert code == 0
    assert err.count("without labels: no folder in") == 2
    assert "(benign, malign)" in err


def small_run(tmp_path: Path, teacher: object) -> list[object]:
    """A run on class folders in `data`, without the names of its folder and of its pictures."""
    for part, seed in (("train", 0), ("test", 1)):
        pictures(tmp_path / "data" / part, seed)
    return [
        *("run", "my-teacher", "--teacher.path", teacher, "--data.name", "folder", "--data-dir", "data"),
        *("--data.validation", "0", "--controls", "none", "--count", "40", "--synthesis.steps", "1"),
        *("--distill.steps", "2", "--distill.batch-size", "8", "--held-out", "20"),
    ]


def test_test_images_are_not_shown_to_a_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*small_run(tmp_path, checkpoint(tmp_path / "teacher")), "--out", "r", "--images"]
    for shown in ("data", "data/test", "data/test/benign"):
        code, _, err = told(capsys, *words, shown)
        assert code == 2
        assert f"--images {shown} has test images of --data-dir" in err
    assert told(capsys, *words, "data/train")[0] == 0


def test_names_of_the_data_are_offered_to_classes_without_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*small_run(tmp_path, own_code(monkeypatch, tmp_path)), "--teacher.shape", *SHAPE]
    assert "give --teacher.class-names benign malign" in told(capsys, *words, "--out", "a")[2]
    named = ["--teacher.class-names", *NAMES, "--out", "b"]
    assert "give --teacher.class-names" not in told(capsys, *words, *named)[2]


# -- files of others


class Attention(nn.Module):
    """Patches, an encoder layer of torch, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 4, 4)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1)
        self.head = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.patches(images).flatten(2).transpose(1, 2)).mean(1))
        return out


def test_transformers_of_torch_are_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = Classifier(Attention(), spec=InputSpec(shape=SHAPE)).freeze()
    assert export_onnx(classifier, tmp_path / "net.onnx").difference < 1e-4


def test_a_checkpoint_is_opened_in_evaluation_mode(tmp_path: Path) -> None:
    assert not load_checkpoint(checkpoint(tmp_path / "t"))[0].training


def test_quantised_onnx_files_are_called_so(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    export_onnx(Classifier(network(), spec=SPEC).freeze(), tmp_path / "net.onnx")
    quantize_dynamic(tmp_path / "net.onnx", tmp_path / "int8.onnx")
    with pytest.raises(ZskdError, match="holds a quantised network .*give the network before quantisation"):
        open_teacher(tmp_path / "int8.onnx")


@pytest.mark.parametrize("first", ["init_state_dict", "initial", "pretrained_model"])
def test_weights_from_before_the_training_are_taken_last(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = own_code(monkeypatch, tmp_path)
    torch.save({first: network(1).state_dict(), "state_dict": network(0).state_dict()}, "net.pt")
    opened, _ = open_teacher(source, shape=SHAPE)
    assert torch.equal(opened.head_weight, network(0)[3].weight.detach())


def test_a_teacher_s_own_facts_hold_before_those_of_its_student(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An ONNX file of zskd export has the normalisation inside, and tells its class names."""
    same, folder = checkpoint(tmp_path / "same"), pictures(tmp_path / "pictures", 0)
    classifier = load_checkpoint(same)[0]
    export_onnx(classifier, tmp_path / "teacher.onnx")
    for student in (same, tmp_path / "teacher.onnx"):
        words = ["check", student, folder, "--teacher", tmp_path / "teacher.onnx", "--no-estimate", "--json"]
        code, out, err = told(capsys, *words)
        assert (code, err) == (0, "")
        assert json.loads(out)["agreement"]["percent"] == 100
    opened, _ = open_teacher(tmp_path / "teacher.onnx")
    assert opened.class_names == NAMES


@pytest.mark.parametrize("given", [True, False])
def test_a_teacher_is_opened_as_its_student_knew_it(
    given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A source that tells its own names and pixels may have been used with others, or be another."""
    monkeypatch.chdir(tmp_path)
    export_onnx(load_checkpoint(checkpoint(tmp_path / "own", seed=0 if given else 1))[0], "net.onnx")
    teacher = open_teacher("onnx:net.onnx", mean=(0.1,), class_names=("x", "y"))[0]
    of_it = teacher.fingerprint() if given else "0" * 64
    module = network(2)
    student = Classifier(module, spec=teacher.spec, class_names=("x", "y")).freeze()
    card = Card(
        architecture=Layers(layers=tuple(read_layers(module))),
        origin=Origin(how="distilled", teacher_sha256=of_it),
    )
    folder = save_checkpoint(student, card, tmp_path / "student")
    shown = pictures(tmp_path / "pictures", 0, names=("x", "y"))
    code, _, err = told(capsys, "check", folder, shown, "--teacher", "onnx:net.onnx", "--no-estimate")
    assert ("cannot be recognised as the teacher" in err) != given
    assert code == 0, err


def test_a_run_with_pairs_across_the_decision_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its images take no steps towards a target, so that there is no filmstrip of them."""
    monkeypatch.chdir(tmp_path)
    words = [*small_run(tmp_path, checkpoint(tmp_path / "t")), "--preset", "boundary", "--out", "r"]
    code, _, err = told(capsys, *words)
    assert code == 0, err
    assert "filmstrip" not in Path("r/README.md").read_text()
    assert not Path("r/figures/filmstrip.png").exists()
    assert told(capsys, "report", "r")[0] == 0


def test_the_page_measures_on_the_data_of_the_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told(capsys, *small_run(tmp_path, checkpoint(tmp_path / "t")), "--out", "r")[0] == 0
    assert told(capsys, "report", "r")[0] == 0
    assert "On real images" in Path("r/report.html").read_text()
    pictures(tmp_path / "data" / "test", 9)
    assert told(capsys, "report", "r")[0] == 0
    page = Path("r/report.html").read_text()
    assert "The data are not those of the run" in page
    assert "On real images" not in page


def test_images_of_every_class_are_shown_where_shards_have_one(tmp_path: Path) -> None:
    teacher = load_checkpoint(checkpoint(tmp_path / "t"))[0].freeze()
    by_rows = TargetsConfig(order="rows")
    spec = SetSpec(method="zskd", count=20, targets=by_rows, synthesis=SynthesisConfig(steps=1))
    made = build_transfer_set(teacher, spec, tmp_path / "set", workers=1)
    assert len(made.manifest.shards) > 1
    gallery = make_gallery(teacher, teacher, made, None)
    assert {one.anchor for one in gallery} == {0, 1}
    assert all(max(answer.teacher for answer in one.answers) <= one.confidence for one in gallery)


# -- methods, starts and experiments of one's own

METHODS = """
from dataclasses import dataclass

import numpy as np
import torch
import zskd


@dataclass(frozen=True)
class Wrong(zskd.Method):
    value: float = 3.0

    def targets(self, teacher, entries, config, *, seed):
        return np.full((len(entries), teacher.classes), self.value, np.float32)

    def objective(self, config):
        return zskd.CrossEntropy()


def bright(streams, shape, box):
    return torch.full((len(streams), *shape), 255.0)
"""


@pytest.mark.parametrize("value", ["3.0", "-3.0", "1e30"])
def test_targets_that_are_no_probabilities_are_told_before_any_work(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(METHODS)
    words = [
        "synthesize",
        checkpoint(tmp_path / "t"),
        "--method",
        "own.py:Wrong",
        "--count",
        "20",
        "--workers",
    ]
    code, _, err = told(capsys, *words, "1", "--method-settings.value", value, "--out", "set")
    assert code == 2
    assert "own.py:Wrong returned targets that are no probabilities" in err
    assert not list(Path("set").glob("*.safetensors"))


def test_start_images_of_one_s_own_are_in_the_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(METHODS)
    words = ["synthesize", checkpoint(tmp_path / "t"), "--method", "noise", "--count", "20", "--workers", "1"]
    code, _, err = told(capsys, *words, "--synthesis.start", "own.py:bright", "--out", "set")
    assert code == 2
    assert "returned pixels from 255 to 255: they must be in the box, from 0 to 1" in err


def test_a_setting_is_searched_once() -> None:
    with pytest.raises(ZskdError, match="--over 'distill.tau' is given 2 times"):
        read_space(None, ("distill.tau=1..20:log", "distill.tau=2,3"))


@pytest.mark.parametrize("label", [10, -1])
def test_a_class_that_does_not_exist_is_not_left_out(
    label: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arm = {"title": "without one", "images": "real", "leave_out": [label]}
    plan = {"name": "own", "recipe": "digits", "arms": {"real_without": arm}}
    plan["plan"] = [{"arms": ["real_without"], "rates": [10], "seeds": 1}]
    (tmp_path / "own.yaml").write_text(json.dumps(plan))
    code, _, err = told(capsys, "reproduce", tmp_path / "own.yaml", "--dry-run", "--out", tmp_path / "o")
    assert code == 2
    assert f"leaves out class {label}, and the classes have the numbers 0 to 9: correct leave_out" in err
