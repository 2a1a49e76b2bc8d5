"""Another version of the user's own code makes another result; and what a command would silently lose."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from conftest import StopAt, Stopped
from zskd.cli.main import main
from zskd.config.distillation import DistillConfig
from zskd.config.loading import load_recipe
from zskd.config.recipe import Recipe
from zskd.config.synthesis import SynthesisConfig
from zskd.config.transforms import AugmentConfig
from zskd.config.trust import code_hashes
from zskd.core.code import code_sha256, import_object, without_folders
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.core.progress import Progress
from zskd.distillation.build import build_student
from zskd.distillation.spec import StudentSpec
from zskd.experiment.definition import Arm
from zskd.experiment.layout import place_cells
from zskd.experiment.plan import Cell
from zskd.models.checkpoint import read_card, save_checkpoint
from zskd.models.classifier import Classifier
from zskd.models.factory import build, describe
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.teacher.opening import open_teacher
from zskd.teacher.sources import make_teacher, open_sources

SHAPE = (1, 8, 8)
CODE = """
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(64, 12), nn.Linear(12, 4)

    def forward(self, x):
        return self.head(F.relu(self.inner(x.flatten(1))))


def squared(student, teacher, config):
    return (student - teacher).square().mean()
"""
METHOD = """
from dataclasses import dataclass
import zskd


@dataclass(frozen=True)
class Plain(zskd.Method):
    def targets(self, teacher, entries, config, *, seed):
        return zskd.one_hot([entry.anchor for entry in entries], teacher.classes)

    def objective(self, config):
        return zskd.match_targets(config)
"""
DISTILL = DistillConfig(
    start="random", steps=24, batch_size=8, optimiser="adam", learning_rate=0.01, augment=AugmentConfig()
)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "changing_network.py"
    path.write_text(CODE)
    return path


@pytest.fixture
def own(code: Path) -> Classifier:
    return open_teacher(f"{code}:Net", shape=SHAPE, mean=(0.0,), std=(1.0,))[0].freeze()


def noise_spec(count: int = 60) -> SetSpec:
    return SetSpec(method="noise", count=count, synthesis=SynthesisConfig(shard_size=30))


def change(code: Path) -> None:
    code.write_text(code.read_text() + "# changed\n")


def test_a_set_does_not_go_on_with_another_version_of_its_teacher(
    own: Classifier, code: Path, tmp_path: Path
) -> None:
    made = build_transfer_set(own, noise_spec(), tmp_path / "set")
    assert list(made.manifest.code or ()) == ["changing_network.py:Net"]
    build_transfer_set(own, noise_spec(), tmp_path / "set")
    change(code)
    with pytest.raises(ZskdError, match=r"made with another code.changing_network.py:Net"):
        build_transfer_set(own, noise_spec(), tmp_path / "set")


def test_a_student_is_not_taken_or_continued_with_another_version_of_a_loss(
    own: Classifier, code: Path, tmp_path: Path
) -> None:
    noise = build_transfer_set(own, noise_spec(), tmp_path / "set")
    spec = StudentSpec(student="mlp(widths=(6,))", distill=replace(DISTILL, loss=f"{code}:squared"))
    with pytest.raises(Stopped):
        build_student(own, spec, noise, tmp_path / "stopped", progress=StopAt(12))
    build_student(own, spec, noise, tmp_path / "whole")
    build_student(own, spec, noise, tmp_path / "whole")
    code.write_text(CODE.replace("square()", "abs()"))
    with pytest.raises(ZskdError, match="another version of your own code"):
        build_student(own, spec, noise, tmp_path / "whole")
    lines = Begun()
    again = build_student(own, spec, noise, tmp_path / "stopped", progress=lines)
    fresh = build_student(own, spec, noise, tmp_path / "fresh")
    assert "it begins anew" in lines.text
    assert again.fingerprint() == fresh.fingerprint()


class Begun(Progress):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.text = ""

    def log(self, text: str) -> None:
        self.text += text


def test_a_student_without_own_code_says_nothing_of_it(own: Classifier, tmp_path: Path) -> None:
    noise = build_transfer_set(own, noise_spec(), tmp_path / "set")
    build_student(own, StudentSpec(student="mlp(widths=(6,))", distill=DISTILL), noise, tmp_path / "out")
    assert "code" not in read_card(tmp_path / "out").origin.model_fields_set


def test_a_finished_run_is_not_shown_as_that_of_another_version_of_its_teacher(
    own: Classifier, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(own, open_teacher(f"{code}:Net", shape=SHAPE)[1], tmp_path / "teacher")
    command = [
        *("run", "my-teacher", "--teacher.path", str(tmp_path / "teacher"), "--model", f"{code}:Net"),
        *(
            "--count",
            "40",
            "--distill.steps",
            "4",
            "--student",
            "mlp(widths=(6,))",
            "--controls",
            "noise_white",
        ),
        *("--held-out", "20", "--workers", "1", "--out", str(tmp_path / "run"), "--quiet"),
    ]
    assert main(command) == 0
    assert main(command) == 0
    capsys.readouterr()
    change(code)
    assert main(command) == 2
    assert "was made with another version of changing_network.py:Net" in capsys.readouterr().err


def test_a_run_of_a_method_that_is_not_named_again_is_no_damaged_one(
    teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = tmp_path / "my_method.py"
    method.write_text(METHOD)
    common = ["run", "my-teacher", "--teacher.path", str(teacher_folder), "--out", str(tmp_path / "run")]
    small = ["--count", "10", "--distill.steps", "1", "--held-out", "10", "--workers", "1", "--quiet"]
    assert main([*common, *small, "--method", f"{method}:Plain"]) == 0
    capsys.readouterr()
    assert main([*common, *small]) == 2
    told = capsys.readouterr().err
    assert f"was made with the code {method}:Plain, which this command does not name" in told
    assert "damaged" not in told


def test_two_files_of_one_name_have_each_its_own_hash(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same_name.py").write_text(f"def made():\n    return '{folder}'\n")
    names = [f"{tmp_path / folder / 'same_name.py'}:made" for folder in "ab"]
    for _ in range(2):
        found = [code_sha256(name) for name in names]
        assert found == [sha256_file(Path(name.rpartition(":")[0])) for name in names]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/home/jane/ssd.pytorch/acme/m.py:Method", "m.py:Method"),
        ("/home/.pyenv/x/m.py:Method(a=b/c)", "m.py:Method(a=b/c)"),
        ("a/m.py", "m.py"),
        ("m.py:build@weights/w.pt", "m.py:build@weights/w.pt"),
        ("package.module:Name", "package.module:Name"),
    ],
)
def test_a_name_of_code_tells_nothing_of_its_folder(name: str, expected: str) -> None:
    assert without_folders(name) == expected


def places_of_teacher(recipe: Recipe, code: Path, folder: Path) -> list[Path]:
    """Return where an experiment keeps its teacher, before and after a change of the code."""
    cell = Cell("teacher-0", "teacher", Arm(title="Teacher", images="none"), None, recipe, None)
    found = []
    for _ in range(2):
        placed = place_cells("mine", [cell], open_sources(recipe), folder / "out", folder / "results")
        found.append(placed[0].teacher)
        change(code)
    return found


def test_a_teacher_of_changed_code_is_trained_in_another_folder(tmp_path: Path) -> None:
    code = tmp_path / "trained_network.py"
    code.write_text(CODE.replace("Linear(64", "Linear(256").replace("Linear(12, 4)", "Linear(12, 10)"))
    recipe = load_recipe("digits", {"teacher": {"model": f"{code}:Net", "shape": [1, 16, 16]}})
    assert len(set(places_of_teacher(recipe, code, tmp_path))) == 2


OPTIMISER = """
import torch


def plain(weights, learning_rate):
    return torch.optim.SGD(weights, lr=learning_rate)
"""


def test_a_teacher_of_a_changed_optimiser_is_trained_in_another_folder(tmp_path: Path) -> None:
    code = tmp_path / "teachers_optimiser.py"
    code.write_text(OPTIMISER)
    recipe = load_recipe(
        "digits", {"teacher": {"optimiser": f"{code}:plain", "shape": [1, 16, 16], "steps": 4}}
    )
    assert len(set(places_of_teacher(recipe, code, tmp_path))) == 2


class StopTeacher(Progress):
    """Stops the training of a teacher behind its first saved state."""

    listens = True

    def note(self, name: str, value: float, step: int) -> None:
        if step >= 30:
            raise Stopped


def test_the_training_of_a_teacher_begins_anew_with_a_changed_optimiser(tmp_path: Path) -> None:
    code = tmp_path / "stopped_optimiser.py"
    code.write_text(OPTIMISER)
    training = {"optimiser": f"{code}:plain", "shape": [1, 16, 16], "steps": 40, "batch_size": 128}
    recipe = load_recipe("digits", {"teacher": training})
    with pytest.raises(Stopped):
        make_teacher(recipe, open_sources(recipe), tmp_path / "teacher", StopTeacher())
    change(code)
    lines = Begun()
    make_teacher(recipe, open_sources(recipe), tmp_path / "teacher", lines)
    assert "it begins anew" in lines.text


def test_a_changed_generator_method_of_a_module_makes_another_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "module_of_generators.py"
    module.write_text("from zskd.distillation.adversarial.dfq import DFQ\n\n\nclass Mine(DFQ):\n    pass\n")
    generator = {"share": 0.5, "method": "module_of_generators:Mine"}
    recipe = load_recipe("digits", {"distill": {"generator": generator}})
    cell = Cell("mine-2-0", "mine", Arm(title="mine"), 2, recipe, None)
    before = cell.key(26, {})
    assert cell.key(26, {}) == before
    change(module)
    assert cell.key(26, {}) != before


def test_a_search_does_not_write_over_the_recipe_that_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.yaml").write_text("name: mine\n")
    assert main(["tune", "best.yaml", "--over", "distill.tau=1..20", "--trials", "4", "--out", "."]) == 2
    assert (
        "is no search of zskd and has best.yaml, which a search would write over" in capsys.readouterr().err
    )


def test_names_of_classes_are_no_code(
    teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"ICD10:C{number}" for number in range(40, 50)]
    assert not code_hashes({"teacher": {"class_names": names, "weights": "ema:model"}, "method": "zskd"})
    command = ["run", "my-teacher", "--teacher.path", str(teacher_folder), "--out", str(tmp_path / "run")]
    assert main([*command, "--class-names", *names]) == 2
    assert "cannot import" not in capsys.readouterr().err


def test_an_import_is_repeated_into_a_folder_that_is_called_as_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlp").mkdir()
    save_file(build(describe("mlp", shape=SHAPE, classes=3), run_code=False).state_dict(), "net.safetensors")
    command = [
        "teacher",
        "import",
        "mlp@net.safetensors",
        "--shape",
        "1",
        "8",
        "8",
        "--mean",
        "0",
        "--std",
        "1",
    ]
    assert main([*command, "--out", "mlp"]) == 0


# settings


@pytest.mark.parametrize(
    "options",
    [
        ("--preset", "conditional", "--distill.generator.replay", "0.3"),
        ("--preset", "paper", "--distill.label-weight", "0.1"),
        ("--preset", "paper", "--synthesis.pixels", "minmax"),
        ("--distill.teacher-weight", "0"),
    ],
)
def test_an_option_is_checked_with_the_preset_and_the_recipe_that_it_overrides(
    options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    augment = "augment: {mixup: 0, cutmix: 0}"
    recipe.write_text(
        f"distill: {{label_weight: 1, {augment}}}\n" if "--preset" not in options else "name: x\n"
    )
    assert main(["run", str(recipe), *options, "--data.name", "none", "--out", str(tmp_path / "run")]) == 2
    assert "no teacher and no data to train one" in capsys.readouterr().err


def test_options_that_exclude_each_other_are_refused_with_what_they_override(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", str(tmp_path / "run"))
    for options, expected in (
        (("--distill.generator.replay", "0.3"), "replay needs a pool"),
        (("--distill.label-weight", "0.1"), "--distill.label-weight must be 0"),
        (("--distill.teacher-weight", "0"), "are both 0"),
        (("--synthesis.carry-images",), "--synthesis.noise-share must be 0"),
    ):
        assert main(["run", "digits", *options, *out]) == 2
        assert expected in capsys.readouterr().err


# files that would be lost


def test_a_run_does_not_write_over_files_that_are_no_run(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    assert main(["run", "my-teacher", "--teacher.path", str(teacher_folder), "--out", "."]) == 2
    assert "is no run of zskd and has README.md, which a run would write over" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_checkpoint_is_not_written_over_the_weights_that_it_is_made_of(
    own: Classifier, code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "net" / "model.safetensors"
    weights.parent.mkdir()
    save_file({f"ema.{name}": one for name, one in own.module.state_dict().items()}, weights)
    before = weights.read_bytes()
    named = ["--model", f"{code}:Net", "--shape", "1", "8", "8"]
    assert main(["teacher", "import", str(weights), *named, "--out", str(weights.parent)]) == 2
    assert "is what the checkpoint is made of, and would be written over" in capsys.readouterr().err
    assert weights.read_bytes() == before


def test_what_was_given_before_and_is_not_now_is_named(
    teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        *("run", "my-teacher", "--teacher.path", str(teacher_folder), "--out", str(tmp_path / "run")),
        *("--count", "10", "--distill.steps", "1", "--held-out", "10", "--workers", "1", "--quiet"),
    ]
    assert main([*command, "--synthesis.candidates", "2"]) == 0
    capsys.readouterr()
    assert main(command) == 2
    assert "was made with another synthesis.candidates (2 there, None now)" in capsys.readouterr().err


def test_memory_that_torch_does_not_get_is_one_line(
    teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    greedy = tmp_path / "greedy_loss.py"
    greedy.write_text("import torch\n\n\ndef loss(*logits):\n    return torch.empty(10**13)\n")
    command = ["synthesize", str(teacher_folder), "--count", "10", "--method", "noise", "--workers", "1"]
    assert main([*command, "--out", str(tmp_path / "set"), "--quiet"]) == 0
    distill = ["distill", str(teacher_folder), str(tmp_path / "set"), "--out", str(tmp_path / "student")]
    assert main([*distill, "--distill.loss", f"{greedy}:loss", "--distill.start", "random", "--quiet"]) == 2
    assert "there is not enough memory: lower the batch size" in capsys.readouterr().err


def test_a_file_that_another_file_imported_is_named_too_and_run_again_when_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper, first = tmp_path / "imported_by_first.py", tmp_path / "imports_another.py"
    helper.write_text("class Net:\n    width = 1\n")
    first.write_text("import imported_by_first\nNet = imported_by_first.Net\n")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for file in (helper, first):
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
    net = import_object(f"{first}:Net")
    assert import_object(f"{helper}:Net") is net
    helper.write_text("class Net:\n    width = 22\n")
    assert import_object(f"{helper}:Net").width == 22
