"""What a run takes: the simulation against closed forms, and the plan against a run."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zskd.cli.main import main as run
from zskd.config.loading import load_recipe
from zskd.config.synthesis import SynthesisConfig
from zskd.core.engines.local import LocalEngine
from zskd.core.engines.overhead import Overhead, empty_task_seconds, measure_overhead
from zskd.core.schedule import seconds_until_done
from zskd.models.classifier import Classifier
from zskd.run.metrics import RunMetrics, read_metrics
from zskd.run.passes import set_passes
from zskd.run.plan.parts import Part, Parts
from zskd.run.plan.sets import sample_set
from zskd.run.plan.tables import Gpu, Plan
from zskd.run.plan.teacher import sample_teacher
from zskd.synthesis.spec import SetSpec
from zskd.teacher.sources import open_sources


@pytest.mark.parametrize("tasks", [1, 7, 64, 1000])
@pytest.mark.parametrize("workers", [1, 2, 7, 64, 1000])
def test_equal_tasks_take_turns(tasks: int, workers: int) -> None:
    assert seconds_until_done([0.25] * tasks, workers) == 0.25 * math.ceil(tasks / workers)


def test_who_gives_out_tasks_limits_how_many_workers_help() -> None:
    tasks = [1.0] * 1000
    # 100 tasks begin in a second: beyond 101 workers some are always idle
    for workers in (101, 200, 1000):
        assert seconds_until_done(tasks, workers, between=0.01) == pytest.approx(1000 * 0.01 + 1)
    assert seconds_until_done(tasks, 10, between=0.01) == pytest.approx(100 * 1.01 + 9 * 0.01)
    assert seconds_until_done(tasks, 1, between=0.01) == pytest.approx(1000 * 1.01)


def test_unequal_tasks_end_as_in_a_simulation_by_small_steps() -> None:
    """Time advances by 1; whoever is free takes the next task."""
    tasks = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    for workers in range(1, 13):
        left, busy, now = list(tasks), [0] * workers, 0
        for now in itertools.count():
            busy = [max(0, one - 1) for one in busy] if now else busy
            busy = [left.pop(0) if one == 0 and left else one for one in busy]
            if not left and not any(busy):
                break
        assert seconds_until_done(tasks, workers) == now


SETS = Part(stage="sets", serial=1.0, alone=(2.0,) * 50, busy=(3.0,) * 50)
STUDENTS = Part(stage="students", alone=(40.0, 20.0), busy=(50.0, 30.0))
END = Part(stage="evaluation", serial=7.0)
PARTS = Parts(parts=(SETS, STUDENTS, END), overhead=Overhead(first=5.0, start=0.5, task=0.0), here=True)


def test_parts_follow_each_other_and_only_tasks_are_shared() -> None:
    assert PARTS.seconds(1) == 1 + 100 + 60 + 7  # in this process: nothing is started
    assert PARTS.seconds(2) == 5 + (1 + 0.5 + 75) + (0.5 + 50) + 7
    assert PARTS.seconds(50) == PARTS.seconds(1000) == 5 + (1 + 0.5 + 3) + (0.5 + 50) + 7
    assert PARTS.by_stage(2) == {"sets": 76.5, "students": 50.5, "evaluation": 7.0}
    # elsewhere, one worker has to be reached, too
    assert replace(PARTS, here=False).seconds(1) == 5 + 1 + 0.5 + 100 + 0.5 + 60 + 7
    one_shard = Part(stage="set", alone=(2.0,), busy=(2.0,))
    assert one_shard.seconds(8, PARTS.overhead, here=True) == 2.0


def test_where_more_workers_bring_nothing() -> None:
    worth = PARTS.worth()
    assert PARTS.seconds(worth) <= 1.05 * PARTS.seconds(1000) < PARTS.seconds(worth // 2)
    assert Parts(parts=(END,)).worth() == 1
    slow = Overhead(task=1.0)
    assert replace(PARTS, overhead=slow, here=False).worth() < worth  # the engine is the bottleneck


def test_core_hours_are_paid_for_whoever_waits() -> None:
    plan = Plan(parts=PARTS, workers=(1, 100), price=3600.0)
    one, many = plan.at_workers()
    assert one["money"] == pytest.approx(168)
    assert one["at_work"] == 1
    assert many["money"] == pytest.approx(100 * 67)
    assert many["at_work"] == pytest.approx((1 + 150 + 80 + 7) / 6700)
    assert all(len(line) <= 80 for line in plan.workers_table().lines())


def test_gpu_hours_are_those_of_the_model() -> None:
    assert Gpu(tflops=10, utilisation=0.5).hours(9 * 10**15) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--for-workers", "0"], "--for-workers is 0: it must be at least 1"),
        (["--price", "inf"], "--price is inf: it must be at least 0"),
        (["--gpu-tflops", "0"], "--gpu-tflops is 0.0: it must be above 0"),
        (["--gpu-utilisation", "1.5"], "--gpu-utilisation is 1.5: it must be above 0 and at most 1"),
        (["--seconds", "nan"], "--seconds is nan: it must be above 0"),
        (["--budget", "3"], "--budget sets the minutes of a run, and a plan tells them: leave it out"),
    ],
)
def test_wrong_numbers_are_told_in_one_line(
    given: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "digits", "--quiet", *given]) == 2
    assert capsys.readouterr().err.startswith(f"zskd: error: {told}")


def test_one_worker_here_costs_nothing() -> None:
    assert measure_overhead(LocalEngine(), 1) == Overhead()
    assert empty_task_seconds(LocalEngine(), 1, 100) < 1


SPEC = SetSpec(
    count=100,
    synthesis=SynthesisConfig(steps=12, tolerance=2.0, noise_share=0.4, batch_size=8, shard_size=30),
)


@pytest.mark.parametrize("seconds", [60.0, 0.0])
def test_a_set_is_sampled_or_estimated_from_above(
    seconds: float, teacher: Classifier, tmp_path: Path
) -> None:
    found = sample_set(teacher, SPEC, tmp_path, seconds=seconds, workers=1, engine=LocalEngine())
    assert len(found.alone) == len(found.busy) == 4
    assert found.alone[3] == pytest.approx(found.alone[0] / 3)  # ten images of thirty
    assert found.at_most == (seconds == 0)
    most = set_passes(teacher, SPEC)
    assert found.passes == most if found.at_most else 0 < found.passes < most


def test_a_teacher_that_takes_long_is_only_timed(tmp_path: Path) -> None:
    recipe = load_recipe("digits", {"teacher": {"epochs": 100_000, "model": "mlp(widths=(4,))"}})
    sources = open_sources(recipe)
    before = sources.model.fingerprint()
    teacher, part = sample_teacher(recipe, sources, tmp_path, seconds=0.01)
    assert part.at_most
    assert part.serial > 60
    assert sources.data is not None
    images = 32 * recipe.teacher.total_steps(len(sources.data.train))
    assert part.passes.teacher == 2 * images
    assert teacher.fingerprint() == sources.model.fingerprint() == before
    assert not (tmp_path / "teacher").exists()


TINY = (
    *("--count", 60, "--controls", "none", "--held-out", 20, "--student", "half"),
    *("--synthesis.steps", 3, "--synthesis.tolerance", 0, "--synthesis.noise-share", 0.5),
    *("--synthesis.batch-size", 10, "--synthesis.shard-size", 20),
    *("--distill.steps", 30, "--distill.batch-size", 8, "--distill.start", "random", "--quiet"),
)


def planned_and_run(
    folder: Path, capsys: pytest.CaptureFixture[str], *recipe: object
) -> tuple[dict[str, Any], RunMetrics]:
    """Return the plan of a run, and what it measured, in `run/` of an empty folder."""
    plan = ("plan", *recipe, "--workers", 2, "--seconds", 0.05, "--for-workers", 1, 3, "--json")
    assert run(list(map(str, plan))) == 0
    told = json.loads(capsys.readouterr().out)
    assert not list(folder.iterdir())
    assert run(list(map(str, ("run", *recipe, "--workers", 1, "--out", folder / "run")))) == 0
    return told, read_metrics(folder / "run" / "metrics.json")


def test_a_plan_counts_the_pictures_of_the_user(
    teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "here").mkdir()
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    recipe = ("my-teacher", "--teacher.path", teacher_folder, *TINY, "--images", tmp_path / "pictures")
    told, metrics = planned_and_run(tmp_path / "here", capsys, *recipe)
    assert metrics.passes is not None
    taken, planned = metrics.passes.values(), told["stages"].values()
    assert sum(one["teacher_passes"] for one in planned) == sum(one.teacher for one in taken)
    made = [
        *(tmp_path / "here/run/students").rglob("model.*"),
        *(tmp_path / "here/run").rglob("images/shard-*"),
    ]
    assert told["stages"]["students"]["disk_bytes"] == sum(path.stat().st_size for path in made)


def test_a_plan_foresees_the_passes_of_its_run(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told, metrics = planned_and_run(tmp_path, capsys, "my-teacher", "--teacher.path", teacher_folder, *TINY)
    assert metrics.passes is not None
    taken = metrics.passes.values()
    stages = told["stages"]
    assert list(stages) == [*("teacher", "set zskd", "students", "held-out images", "evaluation")]
    assert sum(one["teacher_passes"] for one in stages.values()) == sum(one.teacher for one in taken)
    assert sum(one["student_passes"] for one in stages.values()) == sum(one.student for one in taken)
    students = metrics.passes["distillation"]
    assert (stages["students"]["teacher_passes"], stages["students"]["student_passes"]) == (
        students.teacher,
        students.student,
    )
    assert stages["set zskd"]["workers_that_help"] == 3
    assert [one["workers"] for one in told["workers"]] == [1, 3]
    assert not told["gpu_model"]["measured"]
    assert told["recipe"] == "my-teacher"
    of_sets = sum(path.stat().st_size for path in (tmp_path / "run/sets").rglob("shard-*"))
    planned = sum(one["disk_bytes"] for name, one in stages.items() if name.startswith("set "))
    assert planned == pytest.approx(of_sets, rel=0.05)
