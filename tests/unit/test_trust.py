"""Code that a card names runs only after the user has named it, and only while it is unchanged."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from zskd.cli.main import main
from zskd.config.distillation import DistillConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress
from zskd.core.trust import is_trusted, remember
from zskd.distillation.build import build_student
from zskd.distillation.spec import StudentSpec
from zskd.models.checkpoint import Card, load_checkpoint, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe
from zskd.report.run import read_run
from zskd.run.metrics import METRICS
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.teacher.opening import open_teacher

NET = """
from pathlib import Path
from torch import nn

def build(width=4):
    Path("ran").touch()
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 3))

def other():
    return build()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with code, weights, and a list of trusted code of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "own_trusted.py").write_text(NET)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))
    torch.save(net.state_dict(), "net.pt")
    teacher, card = open_teacher("own_trusted.py:build(width=6)@net.pt", shape=(1, 4, 4))
    save_checkpoint(teacher, card, tmp_path / "teacher")
    (tmp_path / "ran").unlink()
    return tmp_path


def test_named_once_it_runs_again(own: Path) -> None:
    assert load_checkpoint(own / "teacher")[0].parameters_count == 16 * 6 + 6 + 6 * 3 + 3
    assert (own / "ran").exists()


def test_changed_code_is_asked_for_again(own: Path) -> None:
    (own / "own_trusted.py").write_text(NET + "\n# changed\n")
    with pytest.raises(ZskdError, match=r"new or was changed.*--model 'own_trusted.py:build\(width=6\)'"):
        load_checkpoint(own / "teacher")
    assert not (own / "ran").exists()
    load_checkpoint(own / "teacher", model="own_trusted.py:build")  # the card keeps the arguments
    (own / "ran").unlink()
    load_checkpoint(own / "teacher")
    assert (own / "ran").exists()


def test_a_stranger_has_not_named_it(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list lies outside of everything that is handed over."""
    monkeypatch.setenv("XDG_STATE_HOME", str(own / "another"))
    with pytest.raises(ZskdError, match="a card may not run code"):
        load_checkpoint(own / "teacher")
    assert not (own / "ran").exists()


def test_trust_is_for_one_function_with_its_arguments(own: Path) -> None:
    assert is_trusted("own_trusted.py:build(width=6)")
    assert is_trusted(f"{own}/own_trusted.py:build( width = 6 )")
    assert not is_trusted("own_trusted.py:build(width=7)")
    assert not is_trusted("own_trusted.py:build")
    assert not is_trusted("own_trusted.py:other")
    assert not is_trusted("own_trusted:build(width=6)")
    assert not is_trusted("nowhere.py:build")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}'])
def test_a_damaged_list_trusts_nothing_and_is_written_again(own: Path, content: str) -> None:
    (own / "state" / "zskd" / "trusted-code.json").write_text(content)
    assert not is_trusted("own_trusted.py:build(width=6)")
    remember("own_trusted.py:build(width=6)")
    assert is_trusted("own_trusted.py:build(width=6)")


def test_where_the_list_cannot_be_written_the_user_is_asked_again(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(own / "file"))
    remember("own_trusted.py:build(width=6)")
    assert not is_trusted("own_trusted.py:build(width=6)")


PACKAGE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.inner, self.head = nn.Linear(16, width), nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.inner(x.flatten(1)).relu())
"""
PACKAGED = "own_package.nets:Net"


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a teacher, and a copy of it as its student, whose code lies in a package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_package").mkdir()
    Path("own_package/nets.py").write_text(PACKAGE)
    torch.manual_seed(0)
    teacher, card = open_teacher(f"{PACKAGED}(width=12)", shape=(1, 4, 4))
    save_checkpoint(teacher, card, "teacher")
    noise = build_transfer_set(
        teacher, SetSpec(method="noise", count=16, synthesis=SynthesisConfig(shard_size=16)), "noise"
    )
    distill = DistillConfig(start="random", steps=2, batch_size=8, augment=AugmentConfig())
    spec = StudentSpec(student="narrow:0.5", distill=distill)
    made = build_student(teacher, spec, noise, "students/zskd")
    again = build_student(teacher, spec, noise, "students/zskd")
    assert again.fingerprint() == made.fingerprint()
    return tmp_path


def test_a_finished_copy_runs_the_code_of_the_teacher_that_it_was_cut_from(packaged: Path) -> None:
    with pytest.raises(ZskdError, match="a card may not run code"):  # without the teacher, nobody named it
        load_checkpoint(packaged / "students/zskd")


def test_the_page_of_a_run_opens_a_copy_with_the_code_that_is_named_for_its_teacher(
    packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(METRICS).touch()
    Path("recipe.yaml").write_text("data: {name: none}\n")
    metrics = SimpleNamespace(arms=[SimpleNamespace(arm="zskd")], sets={})
    monkeypatch.setattr("zskd.report.run.read_metrics", lambda _: metrics)
    given = {"student_model": None, "trust": (), "data_dir": None, "progress": Progress()}
    assert read_run(packaged, teacher_model=PACKAGED, **given).class_names == ("0", "1", "2")
    architecture = describe("mlp", shape=(1, 4, 4), classes=3)
    mlp = Classifier(build(architecture, run_code=False), spec=InputSpec(shape=(1, 4, 4)))
    save_checkpoint(mlp, Card(architecture=architecture), "teacher")
    with pytest.raises(ZskdError, match=rf"if you trust it, add --student-model '{PACKAGED}\(width=12\)'$"):
        read_run(packaged, teacher_model=None, **given)


@pytest.mark.parametrize(
    "words", [("evaluate",), ("check", "pictures"), ("audit", "--members", "p", "--others", "q")]
)
def test_a_teacher_of_new_code_names_the_option_of_teachers(
    words: tuple[str, ...], packaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    architecture = describe("mlp", shape=(1, 4, 4), classes=3)
    mlp = Classifier(build(architecture, run_code=False), spec=InputSpec(shape=(1, 4, 4)))
    save_checkpoint(mlp, Card(architecture=architecture), "student")
    verb, *rest = words
    assert main([verb, "student", *rest, "--teacher", "teacher"]) == 2
    assert f"add --teacher-model '{PACKAGED}(width=12)'" in capsys.readouterr().err
