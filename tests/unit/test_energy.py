"""Joules of a block, from counters that lie as the kernel shows them."""

import json
import os
import tempfile
import threading
from pathlib import Path

import pytest

from conftest import nobody
from limits import wait_until
from powercap import RANGE, Powercap
from zskd.core.energy import MEASURED, NO_COUNTERS, NO_RIGHT, Meter, readable_joules
from zskd.core.errors import ZskdError
from zskd.core.timing import Clock
from zskd.run.metrics import RunMetrics, read_metrics
from zskd.run.summary import energy_words, summary_lines

RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.fixture
def machine(tmp_path: Path) -> Powercap:
    return Powercap(tmp_path / "sys")


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "zskd-energy"]


def test_packages_are_added_and_neither_their_parts_nor_what_holds_them(machine: Powercap) -> None:
    for counter in (*machine.packages, *machine.others):
        machine.use(counter, 7_000_000)  # before the block
    meter = Meter(machine.folder)
    with meter.block() as energy:
        machine.use(machine.packages[0], 1_500_000)
        machine.use(machine.packages[1], 2_000_000)
        for counter in machine.others:
            machine.use(counter, 900_000_000)
    machine.use(machine.packages[0], 5_000_000)  # after it
    assert (meter.outcome, energy.joules) == (MEASURED, 3.5)


def test_dies_of_a_package_are_added(machine: Powercap) -> None:
    for number, counter in enumerate(machine.packages):
        (counter.parent / "name").write_text(f"package-0-die-{number}\n")
    with Meter(machine.folder).block() as energy:
        for counter in machine.packages:
            machine.use(counter, 1_000_000)
    assert energy.joules == 2.0


def test_a_counter_that_begins_again_loses_nothing(machine: Powercap) -> None:
    one, other = machine.packages
    machine.use(one, RANGE - 10)
    with Meter(machine.folder, every=0.005).block() as energy:
        spent = 0
        for _ in range(5):  # four times over the top
            before = energy.joules
            machine.use(one, RANGE * 9 // 10)
            spent += RANGE * 9 // 10
            assert wait_until(lambda before=before: energy.joules != before)  # type: ignore[misc]
        machine.use(other, 250_000)
    assert energy.joules == (spent + 250_000) / 1e6


def test_a_value_at_the_top_and_the_next(machine: Powercap) -> None:
    machine.use(machine.packages[0], RANGE)
    with Meter(machine.folder).block() as energy:
        machine.use(machine.packages[0], 1)
    assert machine.packages[0].read_text() == "0\n"
    assert energy.joules == 1e-6


def test_without_the_right_to_read_it_says_so() -> None:
    with tempfile.TemporaryDirectory() as root:  # unlike pytest's, it may be opened to everybody
        Path(root).chmod(0o755)
        machine = Powercap(Path(root) / "sys")
        machine.packages[1].chmod(0o400 if os.geteuid() == 0 else 0)
        with nobody():
            meter = Meter(machine.folder)
            with meter.block() as energy:
                assert threads() == []
        assert (meter.outcome, energy.joules) == (NO_RIGHT, None)


@pytest.mark.parametrize("how", ["absent", "empty", "hidden", "no package", "damaged"])
def test_without_counters_it_says_so(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "class" / "powercap"
    if how == "empty":
        folder.mkdir(parents=True)
    elif how != "absent":
        machine = Powercap(tmp_path)
        for counter in machine.packages:
            if how == "hidden":  # as in a container: the links lead nowhere
                counter.parent.rename(counter.parent.with_name(f"away-{counter.parent.name[-1]}"))
            elif how == "no package":
                (counter.parent / "name").write_text("dram\n")
            else:
                counter.write_text("")
    meter = Meter(folder)
    with meter.block() as energy:
        assert threads() == []
    assert (meter.outcome, energy.joules) == (NO_COUNTERS, None)


def test_no_thread_is_left(machine: Powercap) -> None:
    meter = Meter(machine.folder)
    for _ in range(50):  # a thread that nobody waits for is often, but not always, gone
        with meter.block():
            assert threads() == ["zskd-energy"]
        assert threads() == []
    energy = meter.block()

    def interrupted() -> None:
        with energy:
            machine.use(machine.packages[0], 3_000_000)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert threads() == []
    assert energy.joules == 3.0


def test_a_counter_that_goes_away_leaves_the_block_unknown(machine: Powercap) -> None:
    with Meter(machine.folder, every=0.005).block() as energy:
        content = machine.packages[0].read_text()
        machine.packages[0].unlink()
        assert wait_until(lambda: energy.joules is None)
        machine.packages[0].write_text(content)  # what was used in between is lost
    assert energy.joules is None


def test_parts_of_a_stage_add_up_as_seconds_do(machine: Powercap, tmp_path: Path) -> None:
    path = tmp_path / "run" / "timings.json"
    path.parent.mkdir()
    for _ in range(2):  # the second time as after an interruption
        clock = Clock(path, Meter(machine.folder))
        for stage, microjoules in (("teacher", 1_500_000), ("students", 40_000_000)):
            with clock(stage):
                machine.use(machine.packages[1], microjoules)
    assert clock.joules == {"teacher": 3.0, "students": 80.0}
    assert json.loads(path.read_text()) == clock.seconds
    with Clock(path, Meter(tmp_path / "none"))("teacher"):  # one part is not measured
        pass
    clock = Clock(path, Meter(machine.folder))
    with clock("teacher"), clock("evaluation"):
        machine.use(machine.packages[1], 1_000_000)
    assert clock.joules == {"students": 80.0, "evaluation": 1.0}
    assert clock.seconds.keys() == {"teacher", "students", "evaluation"}


def test_without_counters_a_clock_writes_what_it_wrote_before(tmp_path: Path) -> None:
    for meter in (None, Meter(tmp_path / "none")):
        with Clock(tmp_path / "timings.json", meter)("teacher"):
            pass
    assert [one.name for one in tmp_path.iterdir()] == ["timings.json"]
    (tmp_path / "energy.json").write_text('{"joules": {"teacher": -1}}')
    with pytest.raises(ZskdError, match=r"energy\.json, the energy of a run, .*delete it"):
        Clock(tmp_path / "timings.json")


def run_with(**changes: object) -> RunMetrics:
    return read_metrics(RESULTS / "students.json").model_copy(
        update={"seconds": {"teacher": 2.0, "set zskd": 3.0, "set noise": 4.0}, **changes}
    )


def test_a_terminal_tells_energy_that_is_known() -> None:
    joules = {"teacher": 12.34, "set zskd": 3000.0, "set noise": 400.0}
    (line,) = (one for one in summary_lines(run_with(joules=joules, energy=MEASURED)) if "oules" in one)
    assert line.startswith(
        "3.41 kJ in all: teacher 12.3 J, images 3.4 kJ. Joules are those of the machine's "
    )
    assert "everything that ran on them" in line
    del joules["teacher"]
    for unknown in (run_with(), run_with(joules=joules, energy=MEASURED), run_with(energy=NO_RIGHT)):
        assert not any("oules" in one or "nergy" in one for one in summary_lines(unknown))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "the version that made this run did not measure it"),
        ({"energy": NO_COUNTERS}, NO_COUNTERS),
        ({"energy": NO_RIGHT}, NO_RIGHT),
    ],
)
def test_pages_say_why_energy_is_not_known(changes: dict[str, object], words: str) -> None:
    assert energy_words(run_with(**changes)) == f"Energy is not known: {words}."


@pytest.mark.parametrize("outcome", [MEASURED, NO_RIGHT])
def test_pages_say_what_joules_of_some_stages_are(outcome: str) -> None:
    told = energy_words(run_with(energy=outcome, joules={"teacher": 1.0}))
    assert told.startswith("Joules are those of the machine's processors: of everything that ran on them ")
    why = "a part of the run was made while the energy counters could not be read"
    assert told.endswith(f" Energy is not known of every stage: {why if outcome == MEASURED else outcome}.")


@pytest.mark.parametrize(
    ("joules", "text"),
    [
        (0.0, "0 J"),
        (0.25, "0.25 J"),
        (12.34, "12.3 J"),
        (999.4, "999 J"),
        (999.6, "1 kJ"),
        (65_532.6, "65.5 kJ"),
        (1.25e6, "1.25 MJ"),
        (7.2e9, "7.2 GJ"),
    ],
)
def test_joules_are_readable(joules: float, text: str) -> None:
    assert readable_joules(joules) == text
