"""What a command leaves alone in the folder that it writes to: files of the user's, and other commands."""

import subprocess
from pathlib import Path

import pytest

from conftest import run_zskd, wait_for
from limits import LIMIT
from warm import zskd
from zskd.cli.main import main as run
from zskd.run.verify import verify_folder
from zskd.transfer_set.dataset import TransferSet

TRAIN = ("teacher", "train", "--data.name", "digits", "--teacher.epochs", "1", "--quiet", "--out")
RUN = (
    *(
        "run",
        "digits",
        "--quiet",
        "--teacher.shape",
        "1",
        "16",
        "16",
        "--teacher.epochs",
        "1",
        "--count",
        "20",
        "--synthesis.steps",
        "1",
    ),
    *("--distill.steps", "4", "--controls", "noise_smooth", "--held-out", "20", "--out"),
)
MINE = (
    *(".tmpabcdef", ".zskd-notes", ".tmp123456/a", ".zskd-folder/a"),
    *("mine/.tmpabcdef", "sets/.zskd-notes", "sets/zskd/.tmp123456/a", "mine/.zskd-folder/a"),
)


@pytest.mark.parametrize("command", [TRAIN, pytest.param(RUN, marks=pytest.mark.slow)], ids=["train", "run"])
def test_files_of_the_users_survive(command: tuple[str, ...], tmp_path: Path) -> None:
    for name in MINE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    assert run([*command, str(tmp_path)]) == 0
    assert [name for name in MINE if (tmp_path / name).read_text() != "mine"] == []
    assert verify_folder(tmp_path)


def test_what_is_in_the_way_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / ".card.json.zskd-part"
    place.write_text("mine")
    assert run([*TRAIN, str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"zskd: error: {place} is in the way")
    assert place.read_text() == "mine"


@pytest.mark.parametrize("text", ['{"news": ["a", "b"]}', "[]", None])
def test_a_folder_is_no_run_by_the_name_of_a_file(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    if text is None:
        (tmp_path / "sources.json").mkdir()
    else:
        (tmp_path / "sources.json").write_text(text)
    command = ["run", "digits", "--count", "10", "--quiet", "--teacher.epochs", "1", "--distill.steps", "1"]
    assert run([*command, "--out", "."]) == 2
    assert (tmp_path / "README.md").read_text() == "mine"
    assert sorted(one.name for one in tmp_path.iterdir()) == [".lock", "README.md", "sources.json"]


def own_file(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    return path


def asked(verb: str, teacher: Path, images: TransferSet) -> list[str]:
    if verb == "train":
        return [*TRAIN]
    if verb == "import":
        return ["teacher", "import", str(teacher / "model.safetensors"), "--model", "lenet5", "--out"]
    small = [
        "--distill.steps",
        "2",
        "--distill.start",
        "random",
        "--threads",
        "1",
        "--no-estimate",
        "--quiet",
    ]
    return ["distill", str(teacher), str(images.folder), *small, "--out"]


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("train", "model.safetensors"),
        ("train", "training.safetensors"),
        ("import", "model.safetensors"),
        ("distill", "model.safetensors"),
    ],
)
def test_a_checkpoint_takes_the_place_of_no_file_of_the_users(
    verb: str,
    name: str,
    teacher_folder: Path,
    small_set: TransferSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = own_file(tmp_path / "here" / name)
    command = asked(verb, teacher_folder, small_set)
    assert run([*command, str(tmp_path / "here")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"has {name}, which a " in line
    assert mine.read_text() == "mine"
    assert [one.name for one in (tmp_path / "here").iterdir()] == [name]
    other = line.partition("--out ")[2]
    assert run([*command, other]) == 0, "the folder that the message names"


@pytest.mark.parametrize(
    ("name", "option"),
    [("timed/mine", "--budget=1"), ("budget.json", "--budget=1"), ("pictures/mine", "--images=photos")],
)
def test_what_an_option_would_write_over_is_no_obstacle_without_it(
    name: str,
    option: str,
    teacher_folder: Path,
    small_set: TransferSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = own_file(tmp_path / "here" / name)
    command = [*asked("distill", teacher_folder, small_set), str(tmp_path / "here")]
    words = [word for word in command if word not in ("--distill.steps", "2")]
    assert run([*(words if "budget" in option else command), option]) == 2
    assert f"has {Path(name).parts[0]}, which a student would write over" in capsys.readouterr().err
    assert run(command) == 0
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("verb", ["train", "distill"])
def test_what_an_interrupted_command_left_is_taken_up(
    verb: str, teacher_folder: Path, small_set: TransferSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its card; the weights or the state of a training may be there."""
    command = [*asked(verb, teacher_folder, small_set), str(tmp_path / "here")]
    where = "zskd.teacher.sources" if verb == "train" else "zskd.distillation.build"
    with monkeypatch.context() as killed:
        killed.setattr(f"{where}.save_checkpoint", stop)
        assert run(command) == 130
    (tmp_path / "here" / "model.safetensors").write_text("half of them")
    assert run(command) == 0
    assert verify_folder(tmp_path / "here")


def stop(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_commands_in_a_folder_and_below_it_do_not_disturb_each_other(tmp_path: Path) -> None:
    below = tmp_path / "below"
    command = [*zskd(), *RUN, str(below)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for((below / "recipe.yaml").exists, process)
        done = run_zskd(*TRAIN, tmp_path)
        _, errors = process.communicate(timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert process.returncode == 0, errors
    assert verify_folder(below)
    assert verify_folder(tmp_path)
