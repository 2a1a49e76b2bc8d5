"""Whoever reads progress or results goes away, with real pipes: everything is made all the same."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest

from limits import LIMIT
from zskd.core.progress import LiveProgress, default_progress
from zskd.run.verify import verify_folder

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
TRAIN = ("teacher", "train", "--data.name", "digits", "--teacher.epochs", "1", "--out")
SET = ("--count", "40", "--synthesis.shard-size", "20", "--synthesis.steps", "1", "--workers", "2", "--out")
RUN = (
    *(
        "run",
        "digits",
        "-v",
        "--teacher.shape",
        "1",
        "16",
        "16",
        "--teacher.epochs",
        "1",
        "--count",
        "40",
        "--synthesis.steps",
        "1",
    ),
    *("--synthesis.shard-size", "20", "--workers", "2", "--distill.steps", "4", "--controls", "noise_smooth"),
    *("--held-out", "20", "--out"),
)


@pytest.fixture
def no_reader() -> Iterator[int]:
    """The end to write to of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def zskd(*arguments: object, **streams: int | IO[bytes]) -> subprocess.CompletedProcess[bytes]:
    given: dict[str, int | IO[bytes]] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    command = [sys.executable, "-m", "zskd", *map(str, arguments)]
    return subprocess.run(command, timeout=LIMIT, check=False, **given)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("gone", [("stdout",), ("stderr",), ("stdout", "stderr")], ids=" and ".join)
def test_a_teacher_is_whole_though_nobody_reads(
    gone: tuple[str, ...], no_reader: int, tmp_path: Path
) -> None:
    done = zskd(*TRAIN, tmp_path / "teacher", **dict.fromkeys(gone, no_reader))
    assert done.returncode == 0
    assert not done.stderr
    assert bool(done.stdout) == (gone == ("stderr",))
    assert verify_folder(tmp_path / "teacher")


@pytest.mark.slow
def test_a_run_is_whole_though_nobody_reads(no_reader: int, tmp_path: Path) -> None:
    """With details and worker processes, which share standard error."""
    assert zskd(*RUN, tmp_path / "run", stdout=no_reader, stderr=no_reader).returncode == 0
    assert len(verify_folder(tmp_path / "run")) == 1 + 2 + 4 + 2  # teacher, sets, held-out sets, students
    assert (tmp_path / "run" / "README.md").is_file()


@needs_full
def test_progress_on_a_full_disk_is_dropped(teacher_folder: Path, tmp_path: Path) -> None:
    with FULL.open("wb") as full:
        made = zskd("synthesize", teacher_folder, "-v", *SET, tmp_path / "set", stderr=full)
    assert made.returncode == 0
    assert made.stdout
    assert verify_folder(tmp_path / "set")


@needs_full
def test_results_on_a_full_disk_are_no_success(teacher_folder: Path, tmp_path: Path) -> None:
    with FULL.open("wb") as full:
        done = zskd("similarity", teacher_folder, "--out", tmp_path / "similarity.json", stdout=full)
    assert done.returncode == 2
    assert done.stderr == b"zskd: error: standard output: No space left on device\n"
    assert json.loads((tmp_path / "similarity.json").read_text())


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_were_closed_before(closed: str, teacher_folder: Path, tmp_path: Path) -> None:
    made = ("synthesize", teacher_folder, "-v", *SET, tmp_path / "s")
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "zskd", *map(str, made)]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT, check=False)
    assert done.returncode == 0
    assert bool(done.stdout) == (closed == "2>&-")
    assert bool(done.stderr) == (closed == ">&-")
    assert verify_folder(tmp_path / "s")


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("--version",)], ids=" ".join)
def test_help_that_nobody_reads(arguments: tuple[str, ...], no_reader: int) -> None:
    done = zskd(*arguments, stdout=no_reader)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_mistake_keeps_its_code_though_nobody_reads(no_reader: int) -> None:
    assert zskd("inspect", "nowhere", stdout=no_reader, stderr=no_reader).returncode == 2


CHATTY = """
import sys, warnings
from pathlib import Path
from zskd.core.parallel import each_done

def work(folder: str, number: int, on_progress: object) -> int:
    warnings.warn("x" * 20_000)
    for stream in (sys.stdout, sys.stderr):
        print("x" * 20_000, file=stream, flush=True)
    Path(folder, str(number)).touch()
    return number

if __name__ == "__main__":
    for _ in each_done(work, sys.argv[1], range(4), workers=2, on_progress=lambda _: None):
        pass
"""


def test_workers_go_on_though_nobody_reads(no_reader: int, tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text(CHATTY)
    (tmp_path / "made").mkdir()
    command = [sys.executable, str(tmp_path / "chatty.py"), str(tmp_path / "made")]
    done = subprocess.run(command, stdout=no_reader, stderr=no_reader, timeout=LIMIT, check=False)
    assert done.returncode == 0
    assert len(list((tmp_path / "made").iterdir())) == 4


def test_a_bar_on_a_terminal_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    advanced = 0
    with ExitStack() as stack:
        terminal = os.fdopen(follower, "w")
        stack.callback(terminal.close)
        stack.enter_context(monkeypatch.context()).setattr(sys, "stderr", terminal)
        progress = default_progress()
        assert isinstance(progress, LiveProgress)
        with progress.task("synthesis", 40, "images") as task:
            os.close(leader)
            for _ in range(40):
                task.advance()
                advanced += 1
                progress.log("a line")
    assert advanced == 40
