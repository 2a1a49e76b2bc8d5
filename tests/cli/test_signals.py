"""Signals to real processes: one line that says how to go on, the signal's exit code, and nothing else."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import wait_for
from limits import LIMIT
from zskd.core.interrupt import Stopped, remembered
from zskd.core.progress import Progress

proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")

AT_IMPORT = """
import itertools, runpy, signal, sys
number, place = int(sys.argv.pop(1)), int(sys.argv.pop(1))
imports = itertools.count()

def hook(event, _):
    if event == "import" and begun and next(imports) == place:
        signal.raise_signal(number)

begun = False
sys.addaudithook(hook)
import zskd.__main__ as command
start = command.signal.signal
def starts(*given):
    global begun
    start(*given)
    begun = True
command.signal.signal = starts
sys.argv[0] = "zskd"
command.main()
"""
"""Sends itself a signal at the given import behind the first line of the command."""


@pytest.mark.parametrize(
    ("number", "place"),
    [(signal.SIGINT, 0), (signal.SIGTERM, 60), (signal.SIGHUP, 200), (signal.SIGINT, 1200)],
)
def test_a_signal_during_an_import_ends_in_one_line(
    number: signal.Signals, place: int, teacher_folder: Path
) -> None:
    command = [sys.executable, "-c", AT_IMPORT, str(int(number)), str(place), "inspect", str(teacher_folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    again = f"zskd inspect {teacher_folder}"
    assert done.stderr == f"stopped. Finished parts are kept; to resume: {again}\n"
    assert (done.returncode, done.stdout) == (128 + number, "")


def offspring(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text("utf-8").split()]
    except OSError:
        return []


def workers_start(pid: int, _: Path) -> bool:
    return any(map(offspring, offspring(pid)))


def a_shard_is_there(_: int, folder: Path) -> bool:
    return any(folder.glob("shard-*"))


@proc
@pytest.mark.parametrize(
    ("number", "moment"), [(signal.SIGINT, workers_start), (signal.SIGHUP, a_shard_is_there)]
)
def test_a_signal_to_all_processes_of_a_command_with_workers(
    number: signal.Signals, moment: Callable[[int, Path], bool], teacher_folder: Path, tmp_path: Path
) -> None:
    """As a terminal sends Ctrl-C and, where it is closed, SIGHUP."""
    options = ["--workers", "2", "--quiet", "--synthesis.shard-size", "2", "--synthesis.steps", "20"]
    command = ["synthesize", str(teacher_folder), *options, "--count", "4000", "--out", str(tmp_path / "set")]
    process = subprocess.Popen(
        [sys.executable, "-m", "zskd", *command],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: moment(process.pid, tmp_path / "set"), process)
    os.killpg(process.pid, number)
    out, errors = process.communicate(timeout=LIMIT)  # ends when the last process has closed the pipes
    assert errors == f"stopped. Finished parts are kept; to resume: zskd {' '.join(command)}\n"
    assert (process.returncode, out) == (128 + number, "")


class Ends:
    """Receives a signal inside its finaliser."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@remembered()
def lose_a_signal() -> None:
    one: Ends | None = Ends()
    del one
    signal.pause()  # without another report to any progress


@remembered()
def break_an_import() -> None:
    try:
        signal.raise_signal(signal.SIGHUP)
    except Stopped:
        raise ImportError("a part of a module was not imported") from None


def test_a_signal_lost_in_a_finaliser_is_delivered_again(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Stopped) as stopped:
        lose_a_signal()
    assert stopped.value.number == signal.SIGTERM
    assert capfd.readouterr() == ("", "")


def test_what_a_signal_breaks_is_no_error_of_its_own() -> None:
    with pytest.raises(Stopped) as stopped:
        break_an_import()
    assert stopped.value.number == signal.SIGHUP


def test_ignored_signals_stay_ignored() -> None:
    """As with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with remembered(), Progress().task("work", 1, "steps") as task:
            signal.raise_signal(signal.SIGHUP)
            task.advance()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_help_in_an_encoding_without_its_letters() -> None:
    command = [sys.executable, "-m", "zskd", "run", "--help-all"]
    environment = os.environ | {"PYTHONIOENCODING": "latin1"}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=LIMIT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "²".encode("latin1") in done.stdout
    assert rb"\u03b2" in done.stdout
