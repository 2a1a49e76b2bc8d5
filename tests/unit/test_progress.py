"""What long work says about itself, with a clock of the test's own and a real terminal."""

import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from zskd.core.progress import (
    LiveProgress,
    PlainProgress,
    Progress,
    Within,
    default_progress,
    readable_bytes,
    readable_seconds,
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("zskd.core.progress.time", SimpleNamespace(monotonic=made))
    return made


def test_plain_lines_tell_the_rate_and_the_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with PlainProgress().task("synthesis", 10_000, "images") as task:
        clock.now += 10
        task.advance(2000, "KL 0.1234")
        clock.now += 10
        task.advance(2000)
    assert capsys.readouterr().err.splitlines() == [
        "synthesis: 2,000 of 10,000 images, 200.0/s, 40 s left, KL 0.1234",
        "synthesis: 4,000 of 10,000 images, 200.0/s, 30 s left",
        "synthesis: 10,000 images in 20 s",
    ]


def test_work_that_goes_on_counts_its_rate_from_where_it_started(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with PlainProgress().task("teacher", 1000, "steps", done=900) as task:
        clock.now += 10
        task.advance(50)
    assert capsys.readouterr().err.splitlines()[0] == "teacher: 950 of 1,000 steps, 5.0/s, 10 s left"


def test_plain_lines_come_no_closer_than_five_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with PlainProgress().task("teacher", 100, "steps") as task:
        for _ in range(100):
            clock.now += 0.25
            task.advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" of ")[0] for line in lines[:-1]] == [f"teacher: {n}" for n in (20, 40, 60, 80, 100)]
    assert lines[-1] == "teacher: 100 steps in 25 s"


def test_short_work_prints_no_line_at_all(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress().task("teacher", 100, "steps") as task:
        clock.now += 4
        task.advance(100)
    assert capsys.readouterr().err == ""


def test_work_without_any_advance_has_no_rate_and_does_not_fail(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with PlainProgress().task("teacher", 100, "steps") as task:
        clock.now += 6
        task.advance(0)
    assert capsys.readouterr().err.splitlines()[0] == "teacher: 0 of 100 steps, 0.0/s"


@pytest.mark.parametrize(
    ("seconds", "done", "left"),
    [
        (9.9, 500, ""),  # too soon
        (10, 19, ""),  # too little of the work
        (10, 20, ", 8 min 10 s left"),
        (10, 1000, ""),  # nothing is left
        (300, 10, ""),
        (300, 100, ", 45 min 00 s left"),
    ],
)
def test_the_time_left_is_told_when_it_means_something(
    seconds: float, done: int, left: str, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """After ten seconds and a fiftieth of the work since the start."""
    with PlainProgress().task("distill", 1500, "steps", done=500) as task:
        clock.now += seconds
        task.advance(done)
    line = capsys.readouterr().err.splitlines()[0]
    assert line == f"distill: {500 + done:,} of 1,500 steps, {done / seconds:,.1f}/s{left}"


def test_a_task_is_told_with_what_it_is_a_part_of(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    plain = PlainProgress()
    plain.verbose = True
    within = Within("student 2 of 3, zskd", Within("3 of 5", plain))
    within.log("about 3 s")
    within.detail("2 workers")
    with within.task("distill", 100, "steps") as task:
        clock.now += 6
        task.advance(50)
    assert capsys.readouterr().err.splitlines() == [
        "about 3 s",
        "2 workers",
        "3 of 5, student 2 of 3, zskd, distill: 50 of 100 steps, 8.3/s",
        "3 of 5, student 2 of 3, zskd, distill: 100 steps in 6 s",
    ]


def test_work_that_fails_does_not_say_that_it_is_done(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with PlainProgress().task("teacher", 100, "steps"):
            clock.now += 60
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert capsys.readouterr().err == ""


def test_lines_go_to_the_stream_that_was_given(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "log").open("w") as stream, PlainProgress(stream).task("teacher", 9, "steps") as task:
        clock.now += 6
        task.advance(9, "loss 0.1")
        assert (tmp_path / "log").read_text() == "teacher: 9 of 9 steps, 1.5/s, loss 0.1\n"
    assert capsys.readouterr() == ("", "")


def test_quiet_prints_nothing(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    progress = default_progress(quiet=True)
    progress.log("x")
    with progress.task("teacher", 100, "steps") as task:
        clock.now += 60
        task.advance(100, "loss 1")
    assert capfd.readouterr() == ("", "")
    assert type(progress) is Progress


def test_a_pipe_gets_plain_lines_on_the_error_stream(capfd: pytest.CaptureFixture[str]) -> None:
    progress = default_progress()
    assert isinstance(progress, PlainProgress)
    progress.log("about 3 s")
    assert capfd.readouterr() == ("", "about 3 s\n")


@pytest.mark.parametrize("verbose", [False, True])
def test_details_are_told_to_those_who_ask(verbose: bool, capsys: pytest.CaptureFixture[str]) -> None:
    progress = default_progress(verbose=verbose)
    progress.detail("2 workers")
    progress.log("about 3 s")
    assert capsys.readouterr().err.splitlines() == ["2 workers"] * verbose + ["about 3 s"]
    default_progress(quiet=True, verbose=verbose).detail("2 workers")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_with_rate_and_note(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = os.openpty()
    seen: list[bytes] = []

    def read() -> None:
        try:
            while block := os.read(leader, 4096):
                seen.append(block)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        progress = default_progress()
        assert isinstance(progress, LiveProgress)
        progress.log("about 3 s")
        with progress.task("synthesis", 40, "images", done=10) as task:
            task.advance(20, "KL 0.25")
        monkeypatch.undo()
    reader.join(10)
    os.close(leader)
    text = b"".join(seen).decode()
    assert "about 3 s" in text
    for part in ("synthesis", "30/40", "images/s", "KL 0.25"):
        assert part in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (8, "8 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599, "59 min 59 s"),
        (3599.7, "1 h 00 min"),
        (11_520, "3 h 12 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_durations_are_told_as_people_say_them(seconds: float, text: str) -> None:
    assert readable_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (98_300_000, "98 MB"),
        (999_700, "1 MB"),
        (999_999_999, "1 GB"),
        (12e9, "12 GB"),
        (1.5e12, "1.5 TB"),
    ],
)
def test_sizes_are_told_as_people_say_them(size: float, text: str) -> None:
    assert readable_bytes(size) == text
