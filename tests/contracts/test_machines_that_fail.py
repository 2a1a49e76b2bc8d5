"""Machines that fail: full disks, damaged files, killed commands, folders that may only be read."""

import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from conftest import Lines, Stopped, nobody
from zskd.config.loading import load_recipe
from zskd.config.yaml import merge
from zskd.core.engines.base import OnProgress
from zskd.core.errors import ZskdError
from zskd.core.files import cache_folder, folder_lock, is_locked, sha256_file
from zskd.core.parallel import each_done
from zskd.core.remote import download, upload, uploaded
from zskd.run.pipeline import run_recipe
from zskd.run.verify import verify_folder
from zskd.training.batches import Batch, Batches, Order, prepared
from zskd.tuning.journal import read_journal
from zskd.tuning.space import read_space
from zskd.tuning.study import Found, tune

TINY: dict[str, Any] = {
    "count": 20,
    "threads": 1,
    "workers": 1,
    "controls": [],
    "student": "mlp(widths=(4,))",
    "data": {"name": "digits", "validation": 0.2},
    "teacher": {"model": "mlp(widths=(8,))", "shape": [1, 8, 8], "steps": 10, "batch_size": 20},
    "synthesis": {"steps": 1, "shard_size": 20, "batch_size": 20},
    "distill": {"steps": 2, "batch_size": 20, "start": "random"},
}
FULL_DISK = """
import errno, os, pathlib
import torch.nn.functional as F

def loss(student, teacher, config):
    if config.tau == 3 and pathlib.Path("full").exists():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return F.mse_loss(student, teacher)
"""


def test_a_search_ends_at_a_full_disk_and_goes_on_as_if_there_had_been_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(FULL_DISK)
    base = merge(TINY, {"distill": {"loss": "own.py:loss"}})

    def search(out: str) -> Found:
        return tune(
            lambda more: load_recipe(None, merge(base, more)),
            read_space(None, ["distill.tau=2,3"]),
            Path(out),
            trials=2,
            sampler="grid",
            results=Path(out),
            progress=Lines(),
        )

    Path("full").touch()
    with pytest.raises(ZskdError, match=r"because of the machine \(OSError: .*No space left on device\)"):
        search("disturbed")
    assert [trial.error for trial in read_journal(Path("disturbed/tuning.jsonl"))] == [None]
    Path("full").unlink()
    values = [[trial.value for trial in search(out).trials] for out in ("disturbed", "undisturbed")]
    assert values[0] == values[1]


KILLED = """
import multiprocessing
import os
import torch.nn.functional as F

def loss(student, teacher, config):
    if config.tau == 3 and multiprocessing.parent_process():  # as the system does where the memory is full
        os.kill(os.getpid(), 9)
    return F.mse_loss(student, teacher)
"""


@pytest.mark.slow
def test_a_search_gets_past_a_trial_whose_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(KILLED)
    base = merge(TINY, {"workers": 2, "distill": {"loss": "own.py:loss"}})
    found = tune(
        lambda more: load_recipe(None, merge(base, more)),
        read_space(None, ["distill.tau=2,3,4"]),
        Path("search"),
        trials=3,
        sampler="grid",
        results=Path("results"),
        progress=Lines(),
    )
    errors = {trial.settings["distill.tau"]: trial.error for trial in found.trials}
    assert errors[2] is errors[4] is None
    assert str(errors[3]).startswith("worker processes died 3 times in a row")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_recipe(load_recipe(None, TINY), folder)
    return folder


@pytest.mark.parametrize("damaged", [("teacher",), ("students/zskd",), ("teacher", "students/zskd")])
def test_damaged_networks_of_a_finished_run_are_made_again(
    damaged: tuple[str, ...], finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    weights = [Path(name, "model.safetensors") for name in damaged]
    for one in weights:
        (tmp_path / "run" / one).write_bytes((finished / one).read_bytes()[:-4] + b"\0\0\x80?")
    lines = Lines()
    metrics = run_recipe(load_recipe(None, TINY), tmp_path / "run", progress=lines)
    assert any(line.endswith("this stage is run again") for line in lines.lines)
    for one in weights:
        assert (tmp_path / "run" / one).read_bytes() == (finished / one).read_bytes()
    assert metrics == run_recipe(load_recipe(None, TINY), finished), "the test set is not used again"


@pytest.mark.parametrize("missing", ["teacher", "students/zskd", "students/zskd/card.json"])
def test_networks_that_a_finished_run_lacks_are_made_again(
    missing: str, finished: Path, tmp_path: Path
) -> None:
    """Such as that of a repair that was stopped."""
    folder, network = tmp_path / "run", missing.removesuffix("/card.json")
    shutil.copytree(finished, folder, ignore=lambda place, _: ["sets"] if Path(place) == finished else [])
    assert verify_folder(folder)
    shutil.move(folder / missing, tmp_path / "lost")
    with pytest.raises(ZskdError, match=f"{network} has no card.json: run the same recipe again"):
        verify_folder(folder)
    metrics = run_recipe(load_recipe(None, TINY), folder)
    assert metrics == run_recipe(load_recipe(None, TINY), finished), "the test set is not used again"
    weights = Path(network, "model.safetensors")
    assert (folder / weights).read_bytes() == (finished / weights).read_bytes()


def test_results_of_a_run_without_its_teacher_are_not_those_of_another_recipe(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "teacher")
    with pytest.raises(ZskdError, match="was made with another seed"):
        run_recipe(load_recipe(None, merge(TINY, {"seed": 5})), tmp_path / "run")


def test_those_who_may_only_read_a_folder_see_whether_it_is_in_use() -> None:
    with tempfile.TemporaryDirectory() as root:  # unlike pytest's, it may be opened to everybody
        folder = Path(root)
        folder.chmod(0o755)
        with folder_lock(folder):
            (folder / ".lock").chmod(0o444)
            with nobody():
                assert is_locked(folder)
        with nobody():
            assert not is_locked(folder)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    """A file system of the test's own, and its cache."""
    monkeypatch.setenv("ZSKD_CACHE", str(tmp_path / "cache"))
    MemoryFileSystem.store.clear()
    yield MemoryFileSystem()
    MemoryFileSystem.store.clear()


def write_parts(folder: Path) -> None:
    for name in ("card.json", "model.safetensors"):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"the {name}")


def cut(path: Path) -> None:
    path.write_text(path.read_text()[:-1])


@pytest.mark.parametrize("damage", [Path.unlink, cut])
def test_a_cache_that_lost_something_is_filled_again(
    damage: Callable[[Path], None], store: MemoryFileSystem, tmp_path: Path
) -> None:
    write_parts(tmp_path / "made")
    upload(tmp_path / "made", "memory://b/x")
    damage(download("memory://b/x") / "card.json")
    found = download("memory://b/x")
    for path in (tmp_path / "made").iterdir():
        assert sha256_file(found / path.name) == sha256_file(path)


def test_a_command_killed_behind_its_upload_ends_well_the_next_time(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> None:
        with uploaded("memory://b/x", "key") as folder:
            write_parts(folder)

    def kill(_: Path) -> None:
        raise Stopped

    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", kill)
        with pytest.raises(Stopped):
            make()
    make()
    assert [path.name for path in cache_folder().glob("unfinished/*/*")] == [".lock"]
    with pytest.raises(ZskdError, match="memory://b/x is finished already"):
        make()


def test_what_was_begun_for_an_address_that_holds_another_artefact_is_kept(
    store: MemoryFileSystem, tmp_path: Path
) -> None:
    with suppress(Stopped), uploaded("memory://b/x", "key") as folder:
        (folder / "begun").touch()
        raise Stopped
    write_parts(tmp_path / "other")
    upload(tmp_path / "other", "memory://b/x")
    with (
        pytest.raises(ZskdError, match="memory://b/x is finished already"),
        uploaded("memory://b/x", "key"),
    ):
        pytest.fail("nothing is made that cannot be uploaded")
    assert (folder / "begun").is_file()


class TwoArguments(Exception):
    """Cannot be unpickled: only its message is kept."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(f"{why} ({code})")


def fail(_shared: None, number: int, _on_progress: OnProgress) -> None:
    raise TwoArguments(number, "a layer of one's own is at a loss")


def test_an_error_that_cannot_be_unpickled_is_told_in_its_own_words() -> None:
    with pytest.raises(RuntimeError, match=r"TwoArguments: a layer of one's own is at a loss \(0\)") as told:
        list(each_done(fail, None, [0], workers=2, on_progress=lambda _: None))
    assert "in fail" in str(told.value.__cause__), "the place where it was raised"


class NoRoomToShare:
    """Makes batches in a process that, from the second one on, has no room for another file in memory."""

    def __init__(self, told: Path) -> None:
        self.told = told

    def __call__(self, rows: torch.Tensor, rng: torch.Generator) -> Batch:
        if self.told.exists():
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        else:
            self.told.write_text(str(os.getpid()))
        return torch.rand(len(rows), 3, generator=rng), torch.empty(len(rows), 0), rows


@pytest.mark.timeout(120)
def test_full_shared_memory_stops_no_training(tmp_path: Path) -> None:
    there = Batches(Order(4, 8, 0), NoRoomToShare(tmp_path / "helper"), 0)
    with_helper = list(prepared(there, range(6), helper=True))
    for left in Path("/dev/shm").glob(f"torch_{(tmp_path / 'helper').read_text()}_*"):
        left.unlink()  # by torch, which could not fill it
    here = Batches(Order(4, 8, 0), lambda rows, rng: (torch.rand(4, 3, generator=rng), rows), 0)
    for (images, none, rows), (wanted, of_rows) in zip(
        with_helper, prepared(here, range(6), False), strict=True
    ):
        assert torch.equal(images, wanted)
        assert torch.equal(rows, of_rows)
        assert none.shape == (4, 0)
