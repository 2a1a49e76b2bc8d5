"""A run in a given time: what fits is found once, kept over a kill -9, and as good as given by hand."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import run_zskd, wait_for
from zskd.cli.main import main as run
from zskd.config.loading import load_recipe
from zskd.core.errors import ZskdError
from zskd.core.files import read_json, sha256_file
from zskd.run.pipeline import run_recipe
from zskd.transfer_set.dataset import TransferSet

AT_ONCE = ("--distill.start", "random")
"""To take over the teacher's weights takes seconds on a busy machine, and these budgets are of seconds."""
SMALL = ("--synthesis.shard-size", "60", "--synthesis.batch-size", "20", "--synthesis.steps", "25")
SMALL = (*SMALL, "--distill.batch-size", "16", *AT_ONCE)
SMALL = (*SMALL, "--threads", "1", "--held-out", "40", "--quiet")


def bytes_of(folder: Path) -> dict[str, str]:
    """Sets and students: what a budget has a part in, and nothing that is only there for a while."""
    files = [path for part in ("sets", "students") for path in (folder / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): sha256_file(path) for path in files}


def found(folder: Path) -> dict[str, Any]:
    return read_json(folder / "budget.json", "the test's")


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "while images are timed": lambda run: any(run.glob("sets/*/shard-*")),
    "while sets are made": lambda run: (run / "budget.json").exists(),
    "while steps are timed": lambda run: (run / "timed").exists(),
    "while students learn": lambda run: any(run.glob("students/*/training.safetensors")),
}


@pytest.mark.slow
def test_killed_at_every_moment_it_ends_in_what_the_numbers_by_hand_give(
    teacher_folder: Path, tmp_path: Path
) -> None:
    begin = ("run", "digits", "--teacher.path", teacher_folder, "--controls", "noise_smooth", *SMALL)
    # far more images than there is time for
    spending = (*begin, "--count", 1_000_000, "--budget", 0.5, "--out", "run")
    folder = tmp_path / "run"
    for moment in MOMENTS.values():
        process = subprocess.Popen(
            [sys.executable, "-m", "zskd", *map(str, spending)],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda moment=moment: moment(folder), process)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.communicate()
    kept = found(folder)
    done = run_zskd(*spending, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert found(folder) == kept
    assert not (folder / "timed").exists()
    assert kept["steps"] >= 100
    assert 300 <= kept["count"] < 1_000_000
    assert kept["count"] % 60 == 0

    numbers = ("--count", kept["count"], "--distill.steps", kept["steps"])
    done = run_zskd(*begin, *numbers, "--out", "by-hand", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert bytes_of(folder) == bytes_of(tmp_path / "by-hand")
    for one, other in zip(*(metrics(path)["arms"] for path in (folder, tmp_path / "by-hand")), strict=True):
        assert one == other

    spent = run_zskd(*begin, "--count", 1_000_000, "--budget", 0.6, "--out", "run", cwd=tmp_path)
    assert spent.returncode == 2
    assert "run was made with another budget (0.5 there, 0.6 now): choose another folder" in spent.stderr


def metrics(folder: Path) -> dict[str, Any]:
    return read_json(folder / "metrics.json", "the test's")


def test_a_student_in_a_given_time(
    teacher_folder: Path,
    small_set: TransferSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["distill", str(teacher_folder), str(small_set.folder), "--threads", "1", "--workers", "1"]
    command += ["--distill.batch-size", "16", *AT_ONCE]
    assert run([*command, "--budget", "0.1", "--out", "student"]) == 0
    told = re.search(r"budget: 50 images and ([\d,]+) steps fit into 6 s\n", capsys.readouterr().err)
    assert told is not None
    steps = int(told[1].replace(",", ""))
    assert found(Path("student"))["steps"] == steps >= 100
    assert run([*command, "--distill.steps", str(steps), "--out", "by-hand", "--quiet"]) == 0
    for file in ("model.safetensors", "card.json"):
        assert Path("student", file).read_bytes() == Path("by-hand", file).read_bytes()


def test_too_little_time_is_refused_and_more_may_be_given(teacher_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    small: dict[str, Any] = {
        "teacher": {"path": str(teacher_folder)},
        "controls": [],
        "held_out": 20,
        "workers": 1,
        "threads": 1,
        "synthesis": {"steps": 5, "shard_size": 60},
        "distill": {"batch_size": 16},
    }
    with pytest.raises(ZskdError) as refused:
        run_recipe(load_recipe("digits", small | {"budget": 0.001}), folder)
    told = re.fullmatch(
        r"--budget 0.001 allows 0 steps, and a student takes at least 100: give --budget ([\d.]+) or more",
        str(refused.value),
    )
    assert told is not None
    assert not (folder / "budget.json").exists()
    assert not any(folder.glob("sets/*"))
    # the machine may have become busier since
    done = run_recipe(load_recipe("digits", small | {"budget": 2 * float(told[1])}), folder)
    assert done.student_steps == found(folder)["steps"] >= 100
    assert {arm.count for arm in done.arms} == {found(folder)["count"]}
    assert load_recipe(folder / "recipe.yaml").budget == 2 * float(told[1])
    with pytest.raises(ZskdError, match="another seed"):
        run_recipe(load_recipe("digits", small | {"budget": 5, "seed": 1}), folder)


def test_a_generator_needs_no_images(teacher_folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        "digits",
        {
            "preset": "dfad",
            "budget": 0.1,
            "teacher": {"path": str(teacher_folder)},
            "controls": [],
            "held_out": 20,
            "workers": 1,
            "threads": 1,
            "synthesis": {"steps": 5},
            "distill": {"batch_size": 4, "generator": {"width": 8}},
        },
    )
    done = run_recipe(recipe, tmp_path / "run")
    kept = found(tmp_path / "run")
    assert "count" not in kept
    assert done.student_steps == kept["steps"] >= 100
