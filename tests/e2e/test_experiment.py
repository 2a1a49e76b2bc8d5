"""A small experiment from its YAML file to its records: once each, whatever kills it, whatever fails."""

import copy
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import warm
from conftest import run_zskd, wait_for
from zskd.cli.main import main as run
from zskd.core.files import folder_lock
from zskd.core.progress import Progress
from zskd.experiment.conduct import conduct
from zskd.experiment.definition import Experiment, load_experiment
from zskd.experiment.layout import CellPaths, State, lay_out, states
from zskd.experiment.plan import plan_cells
from zskd.experiment.record import LEDGER, Record, pack_mask, read_record, write_record

PLAN: dict[str, Any] = {
    "name": "tiny",
    "recipe": "digits",
    "settings": {
        "threads": 1,
        "teacher": {"epochs": 2, "shape": [1, 16, 16]},  # a quarter of the work of 32 pixels
        "synthesis": {"steps": 3, "batch_size": 20, "shard_size": 40},
        "distill": {"steps": 4, "start": "random"},
    },
    "arms": {
        "labels_all": {
            "title": "labels of all real images",
            "images": "all real",
            "settings": {
                "distill": {"teacher_weight": 0, "label_weight": 1, "augment": {"mixup": 0, "cutmix": 0}}
            },
        },
        "real_kd": {"title": "KD, real images", "images": "real"},
        "default": {
            "title": "ZSKD",
            "settings": {"synthesis": {"noise_share": 0.5}, "distill": {"start": "teacher"}},
        },
        "release": {"title": "of another size", "settings": {"preset": "release", "synthesis": {"steps": 2}}},
    },
    "plan": [
        {"arms": ["labels_all"]},
        {"arms": ["real_kd", "default"], "rates": [2, 5], "seeds": 2},
        {"arms": ["release"], "rates": [4.63]},  # 60 images, three of each class and β
    ],
    "reported": [{"arm": "default", "at": {"5": 70.5}, "source": "somebody 2019"}],
}
CELLS = [
    *("teacher-0", "labels_all-0", "real_kd-2-0", "real_kd-5-0", "default-2-0", "default-5-0"),
    "release-4.63-0",
    *("teacher-1", "real_kd-2-1", "real_kd-5-1", "default-2-1", "default-5-1"),
]
FILE = "tiny plan.yaml"
OPTIONS = (FILE, "--out", "the work", "--results", "the results", "--quiet")
MAY_DIFFER = {"date", "wall_seconds", "set_seconds", "workers", "commit"}


def changed(**changes: Any) -> dict[str, Any]:
    """The plan with other settings, arms or blocks."""
    values = copy.deepcopy(PLAN)
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    return values


def write_plan(folder: Path, values: dict[str, Any] = PLAN) -> None:
    (folder / FILE).write_text(yaml.safe_dump(values, sort_keys=False))


def zskd(*arguments: object) -> int:
    """Run a command in this process and return its exit code."""
    try:
        return run([str(argument) for argument in arguments])
    except SystemExit as leaving:
        return int(leaving.code or 0)


def records(results: Path) -> dict[str, Record]:
    return {path.stem: read_record(path) for path in sorted(results.glob("*/[!.]*.json"))}


def lasting(results: Path) -> dict[str, dict[str, Any]]:
    """All that is the same on every day and with any number of workers."""
    return {name: record.model_dump(exclude=MAY_DIFFER) for name, record in records(results).items()}


def ledger(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (results / LEDGER).read_text().splitlines()]


def read_card(work: Path) -> Any:
    """The card of the checkpoint of the teacher with seed 1."""
    (card,) = work.glob("teachers/seed-1-*/card.json")
    return json.loads(card.read_text())


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@dataclass(frozen=True)
class Done:
    folder: Path
    printed: str

    @property
    def results(self) -> Path:
        return self.folder / "the results"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("an experiment")
    write_plan(folder)
    finished = run_zskd("reproduce", *OPTIONS, "--workers", "1", cwd=folder)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    return Done(folder, finished.stdout)


@pytest.fixture
def inside(done: Done, monkeypatch: pytest.MonkeyPatch) -> Done:
    monkeypatch.chdir(done.folder)
    return done


def test_every_cell_has_its_record_and_its_line_in_the_ledger(inside: Done) -> None:
    assert inside.printed == "12 cells have their record in the results; 0 failed\n"
    found = records(inside.results)
    assert sorted(found) == sorted(CELLS)
    lines = ledger(inside.results)
    assert sorted(line["cell"] for line in lines) == sorted(CELLS)
    seeds = [found[line["cell"]].seed for line in lines]
    assert seeds == sorted(seeds)
    planned = {cell.name: cell for cell in plan_cells(load_experiment(FILE))}
    for line in lines:
        record, cell = found[line["cell"]], planned[line["cell"]]
        for name in ("key", "student_sha256", "test_images", "test_accuracy", "experiment", "dataset"):
            assert line[name] == getattr(record, name)
        assert (record.arm, record.rate, record.seed) == (cell.arm_name, cell.rate, cell.recipe.seed)
        assert (record.title, record.reported) == (cell.arm.title, cell.reported)
        assert (record.experiment, record.dataset, record.test_images) == ("tiny", "digits", 500)
        assert (record.workers, record.threads) == (1, 1)


def test_records_hold_what_was_done(inside: Done) -> None:
    found = records(inside.results)
    counts = {
        name: (one.count, one.method, one.student_steps) for name, one in found.items() if one.seed == 0
    }
    assert counts == {
        "teacher-0": (1167, "none", 73),  # two passes in batches of 32
        "labels_all-0": (1167, "real", 4),
        "real_kd-2-0": (26, "real", 4),
        "real_kd-5-0": (65, "real", 4),
        "default-2-0": (26, "zskd", 4),
        "default-5-0": (65, "zskd", 4),
        "release-4.63-0": (60, "zskd", 4),
    }
    teacher, small, large = found["teacher-0"], found["default-2-0"], found["default-5-0"]
    assert teacher.test_accuracy == teacher.teacher_accuracy > 40
    assert (teacher.teacher_agreement, teacher.teacher_forwards) == (100, 0)
    assert len({one.teacher_sha256 for one in found.values() if one.seed == 0}) == 1
    assert len({one.student_sha256 for one in found.values()}) == len(CELLS)
    # 3 steps of at most 26 impressions, half of the groups of ten noise; 4 batches of 256; once at the end
    assert small.teacher_backwards == 16 * 3
    assert small.passes is not None
    of_first_weights = small.passes["initialisation"].teacher_forward
    assert small.teacher_forwards == 16 * 3 + 4 * 256 + 26 + of_first_weights > 4 * 256 + of_first_weights
    assert large.teacher_backwards > small.teacher_backwards
    assert found["real_kd-2-0"].teacher_forwards == 4 * 256
    assert found["labels_all-0"].teacher_forwards == 0
    assert found["default-5-1"].reported is not None
    assert found["default-5-1"].reported.value == 70.5


def test_sets_are_shared_by_the_rates_that_they_nest(inside: Done) -> None:
    sets = sorted(
        path.parent.name.rpartition("-")[0] for path in Path("the work/sets").glob("*/manifest.json")
    )
    # the draws of seed 0 are beginnings of all real images
    assert sets == ["real-1167", "real-65", "zskd-60", "zskd-65", "zskd-65"]


def test_paths_of_sets(inside: Done, tmp_path: Path) -> None:
    """Those that nest share the largest of them; the others, other seeds and other draws do not."""
    arms = PLAN["arms"] | {
        "dropping": {"title": "dropping", "settings": {"synthesis": {"missed": "drop"}}},
        "no_zero": {"title": "no zero", "images": "real", "leave_out": [0]},
        "also_default": PLAN["arms"]["default"] | {"title": "the same set"},
    }
    made = ["default", "also_default", "dropping", "real_kd", "no_zero"]
    blocks = [{"arms": made, "rates": [2, 5], "seeds": 2}, {"arms": ["release"], "rates": [4.63, 6.17]}]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(changed(arms=arms, plan=blocks)))
    experiment = load_experiment(str(tmp_path / "plan.yaml"))

    def sets(*only: str) -> dict[str, Path | None]:
        layout, _ = lay_out(experiment, plan_cells(experiment, only), tmp_path / "work", tmp_path / "results")
        assert len({paths.folder for paths in layout}) == len(layout)
        return {paths.cell.name: paths.set_folder for paths in layout}

    every = sets()
    groups: dict[Path | None, set[str]] = {}
    for name, folder in every.items():
        groups.setdefault(folder, set()).add(name)
    assert sorted(map(sorted, groups.values())) == sorted(
        [
            ["teacher-0", "teacher-1"],
            ["release-4.63-0"],
            ["release-6.17-0"],
            *([f"dropping-{rate}-{seed}"] for rate in (2, 5) for seed in (0, 1)),
            *(
                [f"{name}-{rate}-{seed}" for rate in (2, 5)]
                for name in ("real_kd", "no_zero")
                for seed in (0, 1)
            ),
            *(
                [f"{name}-{rate}-{seed}" for name in ("also_default", "default") for rate in (2, 5)]
                for seed in (0, 1)
            ),
        ]
    )
    # without a larger one, a small set is made alone
    assert every["default-2-0"] == every["default-5-0"] == sets("default-*")["default-2-0"]
    alone = sets("default-2-0")["default-2-0"]
    assert alone is not None
    assert alone.name.startswith("zskd-26-")


def test_a_second_call_does_nothing(inside: Done, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(inside.folder)
    assert zskd("reproduce", *OPTIONS) == 0
    assert capsys.readouterr().out == inside.printed
    # nor from elsewhere with other words for the same
    elsewhere = [str(inside.folder / FILE), "--out", inside.folder / "the work", "--results", inside.results]
    assert zskd("reproduce", *elsewhere, "--only", "default-*", "teacher-0", "--workers", "7") == 0
    assert snapshot(inside.folder) == before
    printed = capsys.readouterr()
    assert "experiment tiny: 5 cells, 5 done before" in printed.err
    assert printed.out == f"5 cells have their record in {inside.results}; 0 failed\n"


def test_status_and_plan_of_what_is_done(inside: Done, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(inside.folder)
    assert zskd("reproduce", *OPTIONS, "--status", "--workers", "2") == 0
    assert capsys.readouterr().out == (
        "12 cells: 12 done, 0 running, 0 failed, 0 left\ntime left: about 0 s with 2 workers\n"
    )
    assert zskd("reproduce", *OPTIONS, "--dry-run", "--only", "*-0", "--workers", "1") == 0
    assert capsys.readouterr().out == (
        "arm                       rate   images  seeds\n"
        "teacher                           1,167  0\n"
        "labels_all                        1,167  0\n"
        "real_kd                    2 %       26  0\n"
        "real_kd                    5 %       65  0\n"
        "default                    2 %       26  0\n"
        "default                    5 %       65  0\n"
        "release                 4.63 %       60  0\n"
        "7 cells: 7 done, 0 running, 0 failed, 0 left\n"
        "cost: about 0 s with 1 workers\n"
    )
    assert snapshot(inside.folder) == before


def test_status_and_plan_of_nothing_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    long = changed(settings={"distill": {"steps": 100_000}}, plan=[{"arms": ["labels_all"]}])
    write_plan(tmp_path, long)
    for option, word in (("--status", "time left"), ("--dry-run", "cost")):
        assert zskd("reproduce", FILE, option, "--workers", "1") == 0
        printed = capsys.readouterr()
        assert "2 cells: 0 done, 0 running, 0 failed, 2 left\n" in printed.out
        last = printed.out.splitlines()[-1]
        assert last.startswith(f"{word}: about ")
        assert " h " in last or " min " in last  # 100,000 steps are not done in seconds
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_record_that_is_gone_is_measured_again_and_its_student_is_not_trained_again(
    inside: Done, tmp_path: Path
) -> None:
    """As behind a kill between a line of the ledger and its record."""
    lost, kept = "default-2-1", lasting(inside.results)
    (student,) = Path("the work/cells").glob(f"{lost}-*/student/model.safetensors")
    (teacher,) = Path("the work/teachers").glob("seed-1-*")
    (teacher / "training.safetensors").touch()  # as behind a kill between its card and the end of its state
    made, lines = student.stat().st_mtime_ns, ledger(inside.results)
    (inside.results / "tiny" / f"{lost}.json").unlink()
    assert zskd("reproduce", *OPTIONS, "--workers", "1") == 0
    assert lasting(inside.results) == kept
    assert student.stat().st_mtime_ns == made
    assert not (teacher / "training.safetensors").exists()
    again = ledger(inside.results)
    assert again[:-1] == lines
    assert {k: v for k, v in again[-1].items() if k != "time"} == {
        k: v for k, v in next(line for line in lines if line["cell"] == lost).items() if k != "time"
    }


def start(cwd: Path, *options: str, zskd: Sequence[str] | None = None) -> subprocess.Popen[str]:
    command = [*(zskd or warm.zskd()), "reproduce", *OPTIONS, *options]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_files(pattern: str, n: int, folder: Path, process: subprocess.Popen[str]) -> None:
    wait_for(lambda: len(list(folder.glob(pattern))) >= n, process)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(warm.KILL)
    process.communicate()


@pytest.mark.slow
def test_killed_in_the_middle_the_same_command_ends_with_the_same_records(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_plan(tmp_path)
    results = tmp_path / "the results"
    moments = (
        ("the work/teachers/*/*.safetensors", 1),
        ("the results/ledger.jsonl", 1),
        ("the results/tiny/[!.]*.json", 5),
    )
    for pattern, n in moments:
        last = n == 5
        command = [sys.executable, "-m", "zskd"] if last else None  # a process that can be stopped
        process = start(tmp_path, "--workers", "1", zskd=command)
        wait_for_files(pattern, n, tmp_path, process)
        if not last:
            kill(process)
    process.send_signal(signal.SIGSTOP)
    recorded = set(records(results))
    running = {path.parent.name[:-9] for path in Path("the work").glob("cells/*/started")} - recorded
    assert zskd("reproduce", *OPTIONS, "--status") == 0
    left = len(CELLS) - len(recorded) - len(running)
    assert capsys.readouterr().out.startswith(
        f"12 cells: {len(recorded)} done, {len(running)} running, 0 failed, {left} left\n"
        + "".join(f"  {name} running\n" for name in running)
    )
    assert zskd("reproduce", *OPTIONS) == 2
    assert "the work is in use by another zskd process" in capsys.readouterr().err
    process.kill()
    process.communicate()
    assert zskd("reproduce", *OPTIONS, "--workers", "1") == 0
    assert capsys.readouterr().out == done.printed
    assert lasting(results) == lasting(done.results)
    assert not list(tmp_path.glob("the work/**/training.safetensors"))
    lines = ledger(results)
    assert {line["cell"] for line in lines} == set(CELLS)
    assert len(lines) <= len(CELLS) + len(moments)  # a cell that is killed behind its line gets another


@pytest.mark.slow
def test_with_two_workers_and_a_kill_the_records_are_the_same(done: Done, tmp_path: Path) -> None:
    write_plan(tmp_path)
    names = ("labels_all-0", "real_kd-2-0", "real_kd-5-0", "default-2-0")
    options = ("--workers", "2", "--only", *names)
    process = start(tmp_path, *options)
    wait_for_files("the work/cells/*/started", 2, tmp_path, process)
    kill(process)
    finished = run_zskd("reproduce", *OPTIONS, *options, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "4 cells have their record in the results; 0 failed\n"
    whole = lasting(done.results)
    assert lasting(tmp_path / "the results") == {name: whole[name] for name in sorted(names)}
    assert {one.workers for one in records(tmp_path / "the results").values()} == {2}


BROKEN = {
    "factory": {"title": "no such network", "images": "real", "settings": {"student": "net.py:net"}},
    "diverging": {
        "title": "far too fast",
        "images": "real",
        "settings": {"distill": {"learning_rate": 1e30}},
    },
    "not_rows": {"title": "26 are no rows", "settings": {"preset": "release", "synthesis": {"steps": 2}}},
}
NET = """
from pathlib import Path
from torch import nn

def net():
    if Path("broken").exists():
        raise RuntimeError("no such layer")
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
"""


def test_a_cell_that_fails_is_reported_with_its_log_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "broken").touch()
    plan = [{"arms": [*BROKEN, "real_kd"], "rates": [2]}]
    write_plan(
        tmp_path,
        changed(arms=BROKEN, plan=plan, settings={"teacher": PLAN["settings"]["teacher"] | {"epochs": 1}}),
    )
    where = ("--out", "work", "--results", "work/results", "--trust", "net.py:net")
    command = ("reproduce", FILE, *where, "--workers", "1")
    assert zskd(*command) == 1
    printed = capsys.readouterr()
    results = tmp_path / "work/results"
    assert sorted(records(results)) == ["real_kd-2-0", "teacher-0"]
    logs = {path.parent.name[:-9]: path for path in Path("work").glob("cells/*/failed.log")}
    assert sorted(logs) == ["diverging-2-0", "factory-2-0", "not_rows-2-0"]
    assert printed.out == "2 cells have their record in work/results; 3 failed\n" + "".join(
        f"  {name}: {logs[name]}\n" for name in ("factory-2-0", "diverging-2-0", "not_rows-2-0")
    )
    for name, why in {
        "factory-2-0": "no such layer",
        "diverging-2-0": "lower --distill.learning-rate (1e+30)",
        "not_rows-2-0": "give --count a multiple of 20, not 26",
    }.items():
        assert why in logs[name].read_text().splitlines()[-1]
        assert f"{name} failed: {logs[name].read_text().splitlines()[-1]} (see {logs[name]})" in printed.err
    assert zskd(*command, "--status") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("5 cells: 2 done, 0 running, 3 failed, 0 left\n")
    assert f"  diverging-2-0 failed: {logs['diverging-2-0']}\n" in printed
    # they are tried again, and they alone
    (tmp_path / "broken").unlink()
    before = snapshot(results / "tiny")
    assert zskd(*command, "--quiet") == 1
    assert capsys.readouterr().out.startswith("3 cells have their record in work/results; 2 failed\n")
    assert not logs["factory-2-0"].exists()
    assert records(results)["factory-2-0"].student == "net.py:net"
    after = snapshot(results / "tiny")
    assert after.keys() - before.keys() == {"factory-2-0.json"}
    assert {name: after[name] for name in before} == before
    assert [line["cell"] for line in ledger(results)] == ["teacher-0", "real_kd-2-0", "factory-2-0"]


def test_records_of_other_settings_are_refused(
    inside: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(changed(settings={"distill": {"steps": 5}})))
    before = snapshot(inside.folder)
    for option in ([], ["--status"]):
        assert zskd("reproduce", tmp_path / "other.yaml", *OPTIONS[1:], *option) == 2
        assert capsys.readouterr().err == (
            "zskd: error: the results/tiny/labels_all-0.json was made with other settings or code: move it "
            "away, or give another --results\n"
        )
    assert zskd("reproduce", tmp_path / "other.yaml", *OPTIONS[1:], "--only", "teacher-*") == 0
    assert snapshot(inside.folder) == before
    capsys.readouterr()
    other = ["--results", tmp_path / "none", "--dry-run", "--only", "labels_all-0"]
    assert zskd("reproduce", tmp_path / "other.yaml", "--out", "the work", *other) == 0
    assert "1 cells: 0 done, 0 running, 0 failed, 1 left" in capsys.readouterr().out


def test_a_damaged_record_is_named(inside: Done, capsys: pytest.CaptureFixture[str]) -> None:
    path = inside.results / "tiny" / "real_kd-5-0.json"
    text = path.read_text()
    messages = {
        "{": "is damaged",
        text.replace('"test_accuracy": ', '"test_accuracy": 1'): "is no complete record",
        text.replace('"count"', '"size"'): "is no complete record (count: Field required): delete it",
    }
    for damaged, message in messages.items():
        path.write_text(damaged)
        assert zskd("reproduce", *OPTIONS) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "the results/tiny/real_kd-5-0.json" in error
        assert len(error.splitlines()) == 1
    path.write_text(text)
    assert zskd("reproduce", *OPTIONS) == 0


def test_results_that_cannot_be_written_are_refused_before_any_work(
    inside: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    given = ["--out", tmp_path / "work", "--results", tmp_path / "file"]
    assert zskd("reproduce", FILE, *given) == 2
    assert f"cannot create the folder {tmp_path / 'file'}" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
    assert (tmp_path / "file").read_text() == "not a folder"


def test_two_at_once_in_one_folder(tmp_path: Path, inside: Done, capsys: pytest.CaptureFixture[str]) -> None:
    with folder_lock(tmp_path / "work"):
        assert zskd("reproduce", FILE, "--out", tmp_path / "work", "--results", tmp_path / "results") == 2
        assert "is in use by another zskd process" in capsys.readouterr().err
        # what is done can be looked at all the same
        assert zskd("reproduce", FILE, "--out", tmp_path / "work", "--status", "--only", "teacher-0") == 0
    assert "1 cells: 0 done, 0 running, 0 failed, 1 left" in capsys.readouterr().out


class Meanwhile(Progress):
    """Somebody else does the whole experiment, just before its folder is taken hold of."""

    def __init__(self, do: Callable[[], object]) -> None:
        self._do: Callable[[], object] | None = do

    def log(self, text: str) -> None:
        do, self._do = self._do, None
        if do is not None:
            do()


def test_what_another_process_did_in_the_meantime_is_not_done_again(
    tmp_path: Path, inside: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = load_experiment(FILE)
    out, results = tmp_path / "work", tmp_path / "results"
    only = plan_cells(experiment, ("real_kd-2-0", "teacher-0"))
    command = ("reproduce", FILE, "--out", out, "--results", results, "--workers", "1", "--quiet")
    other = Meanwhile(lambda: zskd(*command, "--only", "real_kd-2-0", "teacher-0"))
    outcome = conduct(experiment, only, out, results, workers=1, command=lambda cell: "zskd", progress=other)
    assert "2 cells have their record" in capsys.readouterr().out
    assert outcome.count(State.DONE) == 2
    assert sorted(line["cell"] for line in ledger(results)) == ["real_kd-2-0", "teacher-0"]


def forged(record: Record, right: int, **changes: Any) -> Record:
    """The record of another student that gets the first `right` of 500 images right."""
    accuracy = {"test_hits": pack_mask(np.arange(500) < right), "test_accuracy": right / 5}
    return Record.model_validate(
        record.model_dump(by_alias=True) | accuracy | {"student_sha256": "0" * 64} | changes
    )


def test_a_cell_is_compared_by_the_command_of_its_record(
    inside: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "default-2-0"
    record = records(inside.results)[name]
    before = snapshot(inside.results / "tiny"), snapshot(Path("the work"))
    lines = len(ledger(inside.results))
    command = shlex.split(record.command)
    assert command == ["zskd", "reproduce", FILE, "--only", name, "--results", "the results", "--again"]
    again = (*command[1:-3], "--again", "--out", "the work", "--workers", "1", "--quiet", "--results")
    assert zskd(*again, inside.results) == 0
    today = read_record(Path("the work-again/records/tiny") / f"{name}.json").date
    accuracy = f"{record.test_accuracy:.2f} recorded, {record.test_accuracy:.2f} in the new run of {today}"
    assert capsys.readouterr().out == (
        "1 cells have their record in the work-again/records; 0 failed\n"
        f"{name}: {accuracy}: identical, weight for weight\n"
        "To run them again, delete the work-again\n"
    )
    # it was made beside it, its teacher and its images as well: of its own size, not as a beginning
    assert (snapshot(inside.results / "tiny"), snapshot(Path("the work"))) == before
    assert len(ledger(inside.results)) == lines + 1  # another use of the test set
    assert [path.name.rpartition("-")[0] for path in Path("the work-again/sets").glob("*/")] == ["zskd-26"]
    assert len(list(Path("the work-again").glob("teachers/*/card.json"))) == 1
    # against records of other students
    other = tmp_path / "other"
    near, far = round(5 * record.test_accuracy), 470
    for right, verdict, code in (
        ((near - 20, near, near + 20), "another student, inside the 95 % prediction interval [", 0),
        ((far, far + 1, far + 2), "another student, OUTSIDE the 95 % prediction interval [", 1),
        ((far, far), "another student; 2 records are too few, or too alike, for a prediction interval", 0),
    ):
        for seed in (0, 1, 2):
            path = other / "tiny" / f"default-2-{seed}.json"
            path.unlink(missing_ok=True)
            if seed < len(right):
                write_record(path, forged(record, right[seed], seed=seed, cell=path.stem))
        assert zskd(*again, other) == code
        printed = capsys.readouterr().out.splitlines()[-2]
        assert verdict in printed
        assert f"{right[0] / 5:.2f} recorded, {record.test_accuracy:.2f} in the new run of" in printed


def test_nothing_is_compared_that_has_no_record(
    inside: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--out", tmp_path / "work", "--results", tmp_path, "--again")
    assert zskd("reproduce", FILE, *given) == 2
    assert f"none of these cells has a record in {tmp_path}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_given_teacher_one_image_no_validation_and_a_set_that_drops_some(
    inside: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (card,) = (inside.folder / "the work").glob("teachers/seed-0-*/card.json")
    settings = {
        "teacher": {"path": str(card.parent)},
        "threads": 0,
        "device": "cpu",
        "data": {"validation": 0},
    }
    plan = [{"arms": ["default"], "rates": [0.001]}, {"arms": ["dropping"], "rates": [2]}]
    few = {"missed": "drop", "steps": 30, "learning_rate": 0.05}
    arms = {"dropping": {"title": "some are dropped", "settings": {"synthesis": few}}}
    write_plan(tmp_path, changed(settings=settings, plan=plan, arms=arms))
    assert zskd("reproduce", FILE, "--workers", "1", "--quiet") == 0
    assert capsys.readouterr().out == "3 cells have their record in results; 0 failed\n"
    found = records(tmp_path / "results")
    teacher, student = found["teacher-0"], found["default-0.001-0"]
    assert 10 <= found["dropping-2-0"].count < 26
    known = records(inside.results)["teacher-0"]
    assert teacher.student_sha256 == teacher.teacher_sha256 == known.student_sha256
    assert teacher.test_correct == known.test_correct
    assert (student.count, student.unique_images, student.threads) == (1, 1, 1)
    assert teacher.count == 1297  # nothing was split off
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["tiny-experiment"]


def test_seeds_that_share_a_teacher(inside: Done, tmp_path: Path) -> None:
    """It is trained once, and is the one that its seed alone gives."""
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN | {"teachers": [1, 1]}))
    experiment, plain = load_experiment(str(tmp_path / "plan.yaml")), load_experiment(FILE)
    out, results = tmp_path / "work", tmp_path / "results"

    def laid_out(one: Experiment) -> dict[str, CellPaths]:
        return {paths.cell.name: paths for paths in lay_out(one, plan_cells(one), out, results)[0]}

    layout, own = laid_out(experiment), laid_out(plain)
    assert sorted(layout) == sorted(set(CELLS) - {"teacher-1"})
    assert len({paths.teacher for paths in layout.values()}) == 1
    assert layout["default-2-0"].teacher == own["default-2-1"].teacher != own["default-2-0"].teacher
    # images are those of their own seed, made for that teacher
    folders = {layout[name].set_folder for name in ("default-2-0", "default-2-1")}
    assert len(folders) == 2
    assert own["default-2-0"].set_folder not in folders
    assert own["default-2-1"].set_folder in folders

    for seed in (0, 1):  # the first one trains it for the second
        only = plan_cells(experiment, (f"real_kd-2-{seed}", "teacher-0"))
        conduct(experiment, only, out, results, workers=1, command=lambda cell: "zskd")
    found, known = records(results), records(inside.results)
    assert {one.teacher_sha256 for one in found.values()} == {known["teacher-1"].teacher_sha256}
    assert [path.name for path in (out / "teachers").glob("*/")] == [own["teacher-1"].teacher.name]
    assert found["real_kd-2-1"].student_sha256 == known["real_kd-2-1"].student_sha256
    assert found["real_kd-2-0"].student_sha256 != known["real_kd-2-0"].student_sha256
    assert read_card(out) == read_card(inside.folder / "the work")


def test_the_same_on_a_twin(
    inside: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_plan(tmp_path)
    command = ("reproduce", FILE, "--twin", "inverted", "--only", "default-2-0", "--workers", "1", "--quiet")
    assert zskd(*command) == 0
    assert [path.name for path in Path("runs").iterdir()] == ["tiny-inverted-experiment"]
    record = read_record(Path("results/tiny-inverted/default-2-0.json"))
    assert (record.experiment, record.dataset) == ("tiny-inverted", "digits-inverted")
    known = records(inside.results)["default-2-0"]
    assert record.teacher_sha256 != known.teacher_sha256
    assert record.test_correct != known.test_correct
    again = shlex.split(record.command)
    assert again == ["zskd", "reproduce", FILE, "--twin", "inverted", "--only", "default-2-0", "--again"]
    capsys.readouterr()
    assert zskd(*again[1:], "--workers", "1", "--quiet") == 0
    assert "identical, weight for weight" in capsys.readouterr().out
    # the experiment itself has not begun
    assert zskd("reproduce", FILE, "--status", "--only", "default-2-0") == 0
    assert "1 cells: 0 done, 0 running, 0 failed, 1 left" in capsys.readouterr().out


def test_the_committed_records_of_digits_are_those_of_todays_settings(tmp_path: Path) -> None:
    experiment, results = load_experiment("digits"), Path(__file__).parents[2] / "results"
    layout, _ = lay_out(experiment, plan_cells(experiment), tmp_path, results)
    assert set(states(layout, tmp_path)) == {State.DONE}
