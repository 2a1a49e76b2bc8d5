"""A run in a given time: what fits is found once, kept over a kill -9, and as good as given by hand."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Stopped, run_zskd, wait_for
from warm import KILL, zskd
from zskd.cli.main import main as run
from zskd.config.loading import load_recipe
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.core.progress import readable_seconds
from zskd.core.reading import read_json
from zskd.run.metrics import RunMetrics, read_metrics
from zskd.run.pipeline import run_recipe
from zskd.transfer_set.dataset import TransferSet

AT_ONCE = ("--distill.start", "random")
"""To take over the teacher's weights takes seconds on a busy machine, and these budgets are of seconds."""
SMALL = ("--synthesis.shard-size", "60", "--synthesis.batch-size", "20", "--synthesis.steps", "25")
SMALL = (*SMALL, "--distill.batch-size", "16", *AT_ONCE)
SMALL = (*SMALL, "--threads", "1", "--workers", "1", "--held-out", "40", "--quiet")


@pytest.fixture(scope="module")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of pictures of 16 pixels, which take a fraction of the time: seconds are enough for a budget."""
    folder = tmp_path_factory.mktemp("tiny") / "teacher"
    size = ("--teacher.shape", "1", "16", "16", "--teacher.epochs", "5")
    assert run(["teacher", "train", "--data.name", "digits", *size, "--quiet", "--out", str(folder)]) == 0
    return folder


def bytes_of(folder: Path) -> dict[str, str]:
    """Sets and students: what a budget has a part in, and nothing that is only there for a while."""
    files = [path for part in ("sets", "students") for path in (folder / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): sha256_file(path) for path in files}


def found(folder: Path) -> dict[str, Any]:
    return read_json(folder / "budget.json", "the test's", "look")


def enough(attempt: Callable[[float], str], minutes: float) -> float:
    """Return a budget that is not refused.

    On a busy machine the first one can be too small, and also the one that the message names: then twice that
    is tried, at most four times in all.

    Args:
        attempt: runs with a budget; returns the message of a refusal, or an empty text.
        minutes: enough on an idle machine.
    """
    for _ in range(4):
        if not (refused := attempt(minutes)):
            return minutes
        match = re.search(r"allows [\d,]+ steps, .*: give --budget ([\d.]+) or more$", refused.strip())
        assert match is not None, refused
        assert float(match[1]) > minutes
        minutes = 2 * float(match[1])
    pytest.fail(f"the budget that the message names is refused: {refused}")


# each holds from its moment on: a busy machine may look late, and the run is killed a little later then
MOMENTS: dict[str, Callable[[Path], bool]] = {
    "while images are timed": lambda run: any(run.glob("sets/*/shard-*")),
    "while sets are made": lambda run: (run / "budget.json").exists(),
    "while steps are timed": lambda run: (run / "timed").exists() or steps_are_known(run),
    "while students learn": lambda run: any(run.glob("students/*/*.safetensors")),
}


def steps_are_known(run: Path) -> bool:
    return (run / "budget.json").exists() and "steps" in found(run)


@pytest.mark.slow
def test_killed_at_every_moment_it_ends_in_what_the_numbers_by_hand_give(
    tiny_teacher: Path, tmp_path: Path
) -> None:
    begin = ("run", "digits", "--teacher.path", tiny_teacher, "--controls", "noise_smooth", *SMALL)
    folder = tmp_path / "run"

    def spending(minutes: float) -> tuple[object, ...]:
        """Far more images than there is time for."""
        return (*begin, "--count", 1_000_000, "--budget", minutes, "--out", "run")

    def kill_at_every_moment(minutes: float) -> str:
        shutil.rmtree(folder, ignore_errors=True)
        for moment in MOMENTS.values():
            process = subprocess.Popen(
                [*zskd(), *map(str, spending(minutes))],
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            wait_for(lambda: process.poll() == 2 or moment(folder), process)  # noqa: B023
            process.send_signal(KILL)
            _, errors = process.communicate()
            if process.returncode == 2:
                return errors
        return ""

    minutes = enough(kill_at_every_moment, 0.15)
    kept = found(folder)
    done = run_zskd(*spending(minutes), cwd=tmp_path)
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
    for one, other in zip(*(metrics(path).arms for path in (folder, tmp_path / "by-hand")), strict=True):
        assert one == other

    spent = run_zskd(*spending(2 * minutes), cwd=tmp_path)
    assert spent.returncode == 2
    another = f"another budget ({minutes} there, {2 * minutes} now): choose another folder"
    assert f"run was made with {another}" in spent.stderr


def metrics(folder: Path) -> RunMetrics:
    return read_metrics(folder / "metrics.json")


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

    def attempt(minutes: float) -> str:
        code = run([*command, "--budget", str(minutes), "--out", "student"])
        printed.append(capsys.readouterr().err)
        return printed[-1] if code else ""

    printed: list[str] = []
    minutes = enough(attempt, 0.05)
    time = re.escape(readable_seconds(60 * minutes))
    match = re.search(rf"budget: 50 images and ([\d,]+) steps fit into {time}\n", printed[-1])
    assert match is not None
    steps = int(match[1].replace(",", ""))
    assert found(Path("student"))["steps"] == steps >= 100
    assert run([*command, "--distill.steps", str(steps), "--out", "by-hand", "--quiet"]) == 0
    for file in ("model.safetensors", "card.json"):
        assert Path("student", file).read_bytes() == Path("by-hand", file).read_bytes()


def stop(path: Path) -> None:
    raise Stopped(path)


def test_too_little_time_is_refused_and_more_may_be_given(
    tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    small: dict[str, Any] = {
        "students": ["half", "mlp(widths=(8,))"],
        "teacher": {"path": str(tiny_teacher)},
        "controls": [],
        "held_out": 20,
        "workers": 1,
        "threads": 1,
        "synthesis": {"steps": 5, "shard_size": 60},
        "distill": {"batch_size": 16, "start": "random"},
    }
    with monkeypatch.context() as killed:  # while it deletes what does not fit
        killed.setattr("zskd.run.budget.remove_file", stop)
        with pytest.raises(Stopped):
            run_recipe(load_recipe("digits", small | {"budget": 0.001}), folder)
    assert not any(folder.glob("sets/*")), "sets without their size are in the way"
    with pytest.raises(ZskdError) as refused:
        run_recipe(load_recipe("digits", small | {"budget": 0.001}), folder)
    match = re.fullmatch(
        r"--budget 0.001 allows 0 steps, and a student needs at least 100: give --budget ([\d.]+) or more",
        str(refused.value),
    )
    assert match is not None
    assert not (folder / "budget.json").exists()
    assert not any(folder.glob("sets/*"))

    def attempt(minutes: float) -> str:
        try:
            run_recipe(load_recipe("digits", small | {"budget": minutes}), folder)
        except ZskdError as error:
            return str(error)
        return ""

    minutes = enough(attempt, float(match[1]))
    done = metrics(folder)
    assert done.student_steps == found(folder)["steps"] >= 100
    assert {arm.count for arm in done.arms} == {found(folder)["count"]}
    # both students were timed, and trained for as many steps
    assert set(found(folder)["paces"]) == {"zskd", "zskd@mlp-widths-8"}
    assert [one.student for one in done.sizes] == ["half", "mlp(widths=(8,))"]
    assert load_recipe(folder / "recipe.yaml").budget == minutes
    with pytest.raises(ZskdError, match="another seed"):
        run_recipe(load_recipe("digits", small | {"budget": minutes, "seed": 1}), folder)


def test_a_generator_needs_no_images(tiny_teacher: Path, tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "preset": "dfad",
        "teacher": {"path": str(tiny_teacher)},
        "controls": [],
        "held_out": 20,
        "workers": 1,
        "threads": 1,
        "synthesis": {"steps": 5},
        "distill": {"batch_size": 4, "generator": {"width": 8}},
    }

    def attempt(minutes: float) -> str:
        try:
            run_recipe(load_recipe("digits", small | {"budget": minutes}), tmp_path / "run")
        except ZskdError as error:
            return str(error)
        return ""

    enough(attempt, 0.1)
    done, kept = metrics(tmp_path / "run"), found(tmp_path / "run")
    assert "count" not in kept
    assert done.student_steps == kept["steps"] >= 100
