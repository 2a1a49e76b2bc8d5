"""Engines: their names, what a wrong use tells in one line, and what a worker elsewhere checks.

`make cluster` has the tests with a real Ray, which is not among the requirements of the tests.
"""

import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from zskd.cli.main import main as run
from zskd.config.engines import open_engine
from zskd.config.identity import identity
from zskd.config.loading import load_recipe
from zskd.config.recipe import Recipe
from zskd.core.engines.base import PROCESS_BYTES, Need
from zskd.core.engines.local import LocalEngine
from zskd.core.engines.node import Parcel, Units
from zskd.core.engines.ray import RayEngine
from zskd.core.errors import ZskdError
from zskd.distillation import execution as of_students
from zskd.distillation.execution import Execution
from zskd.models.classifier import Classifier
from zskd.run.arms import execution
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.room import shard_need, worker_bytes
from zskd.synthesis.spec import SetSpec


def add(shared: int, number: int, on_progress: Callable[[int], None]) -> int:
    on_progress(2)
    return shared + number


def test_a_name_is_an_engine() -> None:
    assert isinstance(open_engine("local"), LocalEngine)
    assert isinstance(open_engine("ray"), RayEngine)
    assert vars(open_engine("ray:10.0.0.1:6379")) == {"_address": "10.0.0.1:6379"}
    assert not open_engine("ray").here


@pytest.mark.parametrize("name", ["rya", "dask", "", "local:2"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ZskdError, match=r"^--engine is ") as told:
        Recipe(engine=name)
    assert "\n" not in str(told.value)


def test_the_engine_identifies_no_result() -> None:
    recipe = load_recipe("digits", {})
    assert identity(replace(recipe, engine="ray")) == identity(recipe)
    assert "engine" not in identity(recipe)


def test_local_tasks_run_in_this_process() -> None:
    told: list[int] = []
    done = LocalEngine().each_done(add, 5, range(3), workers=1, need=Need(), on_progress=told.append)
    assert dict(done) == {0: 5, 1: 6, 2: 7}
    assert sum(told) == 6


@pytest.mark.parametrize("verb", ["synthesize", "reproduce"])
def test_without_ray_one_line_tells_what_to_install(
    verb: str,
    teacher_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    rest = [teacher_folder, "--count", 40] if verb == "synthesize" else ["digits", "--status"]
    assert run([verb, *map(str, rest), "--engine", "ray", "--out", "out"]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "error" in one]
    assert line == "zskd: error: --engine ray needs Ray: pip install 'zskd[ray]'"


def test_a_worker_prepares_itself_as_its_sender_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, "/code/of/the/sender"])
    parcel = Parcel.of_here(pickle.dumps((add, 7)))
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", sys.path[:-1])
    work, shared = parcel.unpack()
    assert work(shared, 1, lambda _: None) == 8
    assert Path.cwd() == tmp_path
    assert sys.path[-1] == "/code/of/the/sender"


def test_a_worker_elsewhere_with_other_versions_or_folders_refuses(tmp_path: Path) -> None:
    parcel = Parcel.of_here(pickle.dumps((add, 7)))
    older = replace(parcel, versions=parcel.versions | {"torch": "2.0.0"})
    with pytest.raises(ZskdError, match=r"has torch .*, and this process 2.0.0: install the same"):
        older.unpack()
    with pytest.raises(ZskdError, match=r"has no folder .*away: work in a folder that all nodes share"):
        replace(parcel, folder=str(tmp_path / "away")).unpack()


def test_units_of_a_repeated_task_replace_those_before() -> None:
    units = Units()
    units.report(3, 10)
    units.report(3, 4)
    assert units.done() == {3: 4}


def test_a_shard_needs_one_thread_and_the_measured_memory(teacher: Classifier, small_spec: SetSpec) -> None:
    need = shard_need(teacher, small_spec)
    assert need == Need(threads=1, memory=PROCESS_BYTES + worker_bytes(teacher, small_spec), gpus=0)


@pytest.mark.parametrize(
    ("settings", "helped"),
    [
        ({}, True),
        ({"fresh": {"share": 0.5}}, True),
        ({"generator": {"share": 0.5}}, False),
        ({"image_bank": {"share": 0.5}}, False),
        ({"replay": {"share": 0.5}}, False),
    ],
)
def test_cores_are_kept_for_helpers_where_there_can_be_one(
    settings: dict[str, object], helped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_students, "usable_cores", lambda: 8)
    recipe = load_recipe("digits", {"distill": settings, "threads": 0})
    how = execution(recipe)
    assert [how.threads_of_each(students) for students in (1, 2, 3, 16)] == (
        [4, 2, 1, 1] if helped else [8, 4, 2, 1]
    )
    assert how.has_room_for_helper(2, 2) == helped


class Recorded(LocalEngine):
    """An engine elsewhere, with seven cores, whose tasks run in this process."""

    here = False

    def __init__(self) -> None:
        self.needs: list[Need] = []
        self.workers: list[int] = []

    def cores(self) -> int:
        return 7

    def each_done(self, work, shared, numbers, *, workers, need, on_progress):  # type: ignore[no-untyped-def]
        self.needs.append(need)
        self.workers.append(workers)
        return super().each_done(work, shared, numbers, workers=1, need=need, on_progress=on_progress)


def test_an_engine_elsewhere_decides_how_many_tasks_there_are(
    teacher: Classifier, small_spec: SetSpec, tmp_path: Path
) -> None:
    spec = replace(small_spec, synthesis=replace(small_spec.synthesis, batch_size=10, shard_size=10))
    engine = Recorded()
    build_transfer_set(teacher, spec, tmp_path, workers=0, engine=engine)
    assert engine.workers == [5]
    assert engine.needs == [shard_need(teacher, spec)]
    assert Execution(engine=engine).side_by_side(teacher, 9) == 7
    assert Execution(engine=engine).side_by_side(teacher, 1) == 1
    assert not Execution(engine=engine).has_room_for_helper()
