"""The command line: help, errors, exit codes, start-up times. Most of it in this process, for speed."""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy.io import savemat

from conftest import run_zskd
from zskd.cli.main import main as run
from zskd.transfer_set.dataset import TransferSet

VERBS = [
    ("run",),
    ("teacher", "train"),
    ("teacher", "import"),
    ("golden",),
    ("inspect",),
    ("similarity",),
    ("synthesize",),
    ("distill",),
    ("evaluate",),
    ("predict",),
    ("check",),
    ("audit",),
    ("show", "similarity"),
    ("show", "samples"),
    ("show", "filmstrip"),
    ("export",),
    ("verify",),
    ("tune",),
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_tells_what_the_verb_does_and_gives_an_example(
    verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: zskd {' '.join(verb)}" in text
    assert re.search(rf"Examples?:\s+zskd {' '.join(verb)} ", text)


def test_every_setting_of_a_run_is_an_option() -> None:
    from dataclasses import fields, is_dataclass
    from typing import get_type_hints

    from zskd.config.recipe import Recipe

    def options(kind: type, prefix: str) -> list[str]:
        hints = get_type_hints(kind)
        found = []
        for field in fields(kind):
            name = f"{prefix}{field.name.replace('_', '-')}"
            hint = hints[field.name]
            found += options(hint, f"{name}.") if is_dataclass(hint) else [f"--{name}"]
        return found

    text = run_zskd("run", "--help-all").stdout  # in a wide terminal of its own
    missing = [option for option in options(Recipe, "") if option not in text]
    assert not missing


def test_every_field_of_the_settings_has_a_docstring_below_it() -> None:
    import ast

    import zskd.config

    files = Path(str(zskd.config.__file__)).parent.glob("*.py")
    body = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    bare = []
    inherited = {
        "epochs",
        "batch_size",
        "steps",
        "optimiser",
        "learning_rate",
    }  # repeated for another default only
    for node in body:
        if isinstance(node, ast.ClassDef):
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                if "ClassVar" in ast.unparse(field):
                    continue
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and not told:
                    bare += [f"{node.name}.{field.target.id}"] * (field.target.id not in inherited)
    assert not bare


def test_help_version_and_import_are_quick() -> None:
    """Compared with what they must not wait for, in seconds of the processor, which others do not take."""
    commands = {
        "torch": ["-c", "import torch"],
        "help": ["-m", "zskd", "--help"],
        "version": ["-m", "zskd", "--version"],
        "import": ["-c", "import zskd"],
    }

    def seconds(command: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    rounds = [{name: seconds(command) for name, command in commands.items()} for _ in range(3)]
    best = {name: min(one[name] for one in rounds) for name in commands}
    assert best["help"] < 0.6 * best["torch"]  # 1.4 seconds where this was written
    assert best["version"] < 0.6 * best["torch"]
    assert best["import"] < 0.3 * best["torch"]


def test_torch_is_not_imported_for_help() -> None:
    code = "import sys; from zskd.cli.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


BAD = {
    "unknown verb": (["rum", "digits"], "run"),
    "unknown recipe": (["run", "digit"], "did you mean digits?"),
    "unknown option": (["run", "digits", "--synthesis.stpes", "3"], "--synthesis.steps"),
    "wrong type": (["run", "digits", "--synthesis.steps", "many"], "synthesis.steps"),
    "unknown choice": (["run", "digits", "--distill.loss", "l3"], "l1"),
    "unknown preset": (["run", "digits", "--preset", "papr"], "did you mean paper?"),
    "count of zero": (["run", "digits", "--count", "0"], "--count is 0"),
    "negative count": (["run", "digits", "--count", "-5"], "--count is -5"),
    "rate of zero": (["run", "digits", "--rate", "0"], "--rate is 0"),
    "rate above 100": (["run", "digits", "--rate", "101"], "--rate is 101"),
    "count and rate": (["run", "digits", "--rate", "10", "--count", "5"], "give one of them"),
    "rate without data": (["run", "my-teacher", "--rate", "10", "--teacher.path", "x"], "x"),
    "no teacher and no data": (["run", "digits", "--data.name", "none"], "--teacher.path"),
    "missing teacher file": (["run", "my-teacher", "--teacher.path", "no.safetensors"], "no.safetensors"),
    "missing data": (["run", "mnist", "--data-dir", "nowhere"], "nowhere/MNIST/raw"),
    "unknown student": (["run", "digits", "--student", "lenet5_hlf"], "lenet5_half"),
    "missing checkpoint": (["inspect", "nowhere"], "there is no file or folder nowhere: give a checkpoint"),
    "missing set": (["verify", "nowhere"], "neither a transfer set nor a checkpoint"),
    "missing argument": (["run"], "RECIPE"),
    "unknown device": (
        ["run", "digits", "--device", "nonsense"],
        "--device nonsense: this machine has no such",
    ),
    "negative workers": (["run", "digits", "--workers", "-1"], "--workers is -1"),
    "negative tolerance": (
        ["run", "digits", "--synthesis.tolerance", "-0.1"],
        "--synthesis.tolerance is -0.1",
    ),
    "tolerance where lanes share": (
        ["run", "digits", "--synthesis.pixels", "minmax", "--synthesis.tolerance", "0.1"],
        "--synthesis.tolerance must be 0",
    ),
    "dropping without tolerance": (
        ["run", "digits", "--synthesis.missed", "drop", "--synthesis.tolerance", "0"],
        "--synthesis.missed drop needs a --synthesis.tolerance",
    ),
    "no picture": (["predict", "nowhere"], "at least one picture"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_mistake_ends_with_one_line_and_code_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, expected = BAD[name]
    if name == "unknown student":
        arguments = [*arguments, "--teacher.epochs", "0.1", "--count", "10", "--synthesis.steps", "1"]
    if arguments[:1] == ["run"]:
        arguments = [*arguments, "--quiet"]
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("zskd: error: ")
    assert expected in lines[0]


def test_a_mistake_in_a_process_of_its_own_leaves_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("synthesis: {stesp: 4}\n")
    done = run_zskd("run", "mine.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        == "zskd: error: mine.yaml: unknown key synthesis.stesp: did you mean synthesis.steps?"
    )
    assert not (tmp_path / "runs").exists()


def test_print_config_is_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "run",
        "mnist",
        "--preset",
        "paper",
        "--synthesis.steps",
        "7",
        "--seed",
        "4",
        "--print-config",
    ]
    assert run(arguments) == 0
    printed = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(printed)
    assert run(["run", str(tmp_path / "again.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    assert "steps: 7" in printed
    assert "tau: 20.0" in printed


def test_a_folder_of_another_configuration_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from zskd.config.loading import load_recipe, to_yaml

    folder = tmp_path / "run"
    (folder / "teacher").mkdir(parents=True)
    (folder / "sources.json").write_text("{}")
    text = to_yaml(load_recipe("digits", {"seed": 1}))
    (folder / "recipe.yaml").write_text(text)
    assert run(["run", "digits", "--out", str(folder), "--quiet"]) == 2
    assert "seed (1 there, 0 now)" in capsys.readouterr().err
    assert (folder / "recipe.yaml").read_text() == text
    (folder / "recipe.yaml").write_text(text[: text.index("nominal_rates") + 5])
    assert run(["run", "digits", "--out", str(folder), "--quiet"]) == 2
    assert "damaged" in capsys.readouterr().err


def test_verbs_on_files(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each verb alone on the files of the one before."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)

    def ok(*arguments: object) -> str:
        code = run([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    teacher = teacher_folder
    facts = ok("inspect", teacher)
    for fact in ("fc2, 84 features", "61,706", "416,520", "35,820 parameters", "no batch-norm"):
        assert fact in facts
    assert "concentration" in ok("similarity", teacher)
    ok("similarity", teacher, "--out", "similarity.json")
    quick = ("--synthesis.steps", 3, "--quiet")
    made = ok("synthesize", teacher, "--count", 60, "--out", "set", "--recipe", "digits", *quick)
    assert made.startswith("60 images in set")
    ok(
        "synthesize",
        teacher,
        "--rate",
        5,
        "--data.name",
        "digits",
        "--method",
        "noise",
        "--out",
        "noise",
        "--quiet",
    )
    short = ("--distill.steps", 5, "--distill.start", "random", "--quiet")
    distilled = ok("distill", teacher, "set", "--out", "student", *short)
    assert "35,820" in distilled
    assert "on real images, estimated without any: no number, somewhere in [" in distilled  # after five steps
    assert "Why no number: the student misses" in distilled
    assert "The teacher's own errors cannot be seen" in distilled
    silent = ok("evaluate", "student", "--teacher", teacher, "--set", "noise", "--no-estimate")
    assert "accuracy not measured: no data" in silent
    assert "estimated" not in silent
    measured = ok("evaluate", "student", "--data.name", "digits", "--teacher", teacher, "--out", "m.json")
    assert re.search(r"test accuracy +\d+\.\d\d % \[", measured)
    estimated = json.loads(Path("m.json").read_text())["estimated_agreement"]
    told = distilled.splitlines()
    assert [line.split()[0] for line in told if re.match(r"teacher|student ", line)] == [
        "student",
        "teacher",
        "student",
    ]
    assert told[-len(estimated["words"]) :] == estimated["words"]
    trained = ok("evaluate", teacher, "--teacher", teacher)
    assert "is not estimated: the student was trained on real images" in trained
    Image.new("L", (50, 40), 120).save("grey.png")
    assert re.search(
        r"grey\.png  \d 0\.\d{3}  \d 0\.\d{3}\n", ok("predict", "student", "grey.png", "--top", 2)
    )
    ok("show", "similarity", teacher, "--out", "similarity.svg")
    ok("show", "samples", "set", "--class", 3, "--out", "threes.png")
    ok("show", "filmstrip", teacher, "set", "--index", 5)
    ok("export", "set", "--to", "mat", "--out", "set.mat")
    ok("export", "set", "--to", "png", "--teacher", teacher, "--out", "pictures")
    checked = ok("check", "student", "pictures", "--teacher", teacher, "--no-estimate")
    assert checked.startswith("agreement of student and teacher  ")
    assert "recall of 9, %" in checked
    assert "3 shards" not in ok("verify", "set", "student", teacher)
    assert "every" not in ok("verify", ".")
    for file in ("similarity.json", "m.json", "similarity.svg", "threes.png", "filmstrip.png", "set.mat"):
        assert Path(file).stat().st_size > 100

    # what is finished is never written over
    assert run(["distill", str(teacher), "set", "--out", "student", "--quiet"]) == 2
    assert "finished already" in capsys.readouterr().err
    assert run(["synthesize", str(teacher), "--count", "61", "--out", "set", "--quiet"]) == 2
    assert "another spec.count (60 there, 61 now)" in capsys.readouterr().err


def test_how_a_set_is_made_can_be_chosen_and_is_told_to_those_who_ask(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["synthesize", str(teacher_folder), "--count", "30", "--device", "cpu"]
    command += ["--synthesis.steps", "2", "--synthesis.batch-size", "5", "--synthesis.shard-size", "10"]

    def made(out: str, *options: str) -> tuple[dict[str, Any], str]:
        assert run([*command, "--out", out, *options]) == 0
        told = capsys.readouterr()
        assert told.out.startswith(f"30 images in {out}: ")
        return json.loads(Path(out, "manifest.json").read_text()), told.err

    usual, told = made("usual", "--workers", "2", "-v")
    assert re.search(r"2 workers of 1 thread on cpu, about [\d,]+ [MG]B", told)
    assert "teacher: layout channels_last, merged ('conv0', 'conv1')" in told
    alone, told = made("alone", "--workers", "1", "--verbose")
    assert "1 workers of 1 thread on cpu" in told
    assert alone == usual
    plain, told = made("plain", "--no-rewrite", "--workers", "1")
    assert "workers of 1 thread" not in told
    assert "images of 2 steps at most" in told
    assert (usual["resolved"]["merged"], plain["resolved"]["merged"]) == (["conv0", "conv1"], [])
    rewritten, told = made("rewritten", "--rewrite", "--quiet", "-v")
    assert rewritten == usual
    assert told == ""


def test_how_a_student_learns_can_be_chosen_and_changes_nothing_but_rounding(
    teacher_folder: Path,
    small_set: TransferSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [
        "distill",
        str(teacher_folder),
        str(small_set.folder),
        "--distill.steps",
        "4",
        "--threads",
        "1",
    ]
    command += ["--distill.batch-size", "16", "--device", "cpu", "--no-estimate"]
    command += ["--distill.start", "random"]

    def weights(out: str, *options: str) -> bytes:
        assert run([*command, "--out", out, *options]) == 0
        return Path(out, "model.safetensors").read_bytes()

    usual = weights("usual", "--workers", "1", "-v")
    assert "distill: 1 threads on cpu" in capsys.readouterr().err
    assert weights("mapped", "--workers", "1", "--distill.images", "mapped") == usual
    assert weights("memory", "--workers", "2", "--distill.images", "memory") == usual
    assert "threads on cpu" not in capsys.readouterr().err
    assert weights("plain", "--workers", "1", "--no-rewrite", "--quiet") != usual
    assert capsys.readouterr().err == ""


def test_golden_pairs_and_own_code_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np
    import torch

    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(48, 9), nn.ReLU(), nn.Linear(9, 3))\n"
    )
    import importlib.util

    spec = importlib.util.spec_from_file_location("own_for_test", "own.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.build()
    torch.save(network.state_dict(), "net.pt")
    x = torch.rand(3, 3, 4, 4)
    np.savez("golden.npz", inputs=x.numpy(), logits=network((x - 0.5) / 0.25).detach().numpy())
    file = ["teacher", "import", "net.pt", "--model", "own.py:build", "--shape", "3", "4", "4"]
    assert run([*file, "--golden", "golden.npz", "--out", "t"]) == 2
    assert "mean, std" in capsys.readouterr().err
    assert not Path("t").exists()
    right = ["--mean", "0.5", "--std", "0.25", "--golden", "golden.npz", "--out", "t"]
    assert run([*file, *right]) == 0
    assert "golden pairs agree" in capsys.readouterr().out
    assert run(["inspect", "t"]) == 0  # named once, trusted while it is unchanged
    assert "3 golden pairs agree" in capsys.readouterr().out
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of somebody else"))
    assert run(["inspect", "t"]) == 2
    assert "a card may not run" in capsys.readouterr().err
    assert run(["inspect", "t", "--model", "own.py:build"]) == 0
    assert "3 golden pairs agree" in capsys.readouterr().out


def test_unwritable_folders_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(["run", "digits", "--quiet", "--out", str(tmp_path / "file" / "run")]) == 2
    assert "cannot create the folder" in capsys.readouterr().err


def test_a_matlab_file_of_another_network_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    savemat(tmp_path / "x.mat", {"a": [1, 2]})
    assert run(["teacher", "import", str(tmp_path / "x.mat"), "--out", str(tmp_path / "t")]) == 2
    assert "no MATLAB file of the reproduction" in capsys.readouterr().err
