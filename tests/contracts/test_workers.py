"""Work in several processes: the same bytes, whoever is killed, and nobody is left behind."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from limits import LIMIT, wait_until
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.core.interrupt import Stopped, remembered
from zskd.core.parallel import each_done
from zskd.core.progress import Progress, Task
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet

SHARDS = 5


def spec_of(steps: int = 12, count: int = 20 * SHARDS - 7, **synthesis: object) -> SetSpec:
    """Several shards, the last not full, whose images use up their steps or do not."""
    chosen = {"tolerance": 0.05, "noise_share": 0.4, "batch_size": 8, "shard_size": 20} | synthesis
    return SetSpec(
        count=count,
        seed=2,
        targets=TargetsConfig(redraws=5),
        synthesis=SynthesisConfig(steps=steps, **chosen),  # type: ignore[arg-type]
    )


SLOW = spec_of(steps=100, tolerance=0.0)
"""A worker is busy with a shard of these for long enough to be caught at it."""


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.glob("shard-*"))}


class Told(Progress):
    """Keeps what it is told, and does something each time."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.units: list[int] = []
        self.said: list[str] = []
        self._then = then

    def log(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        told = self
        told.units.append(done)

        class One:
            def advance(self, done: int = 1, note: str = "") -> None:
                told.units.append(done)
                told._then()

        yield One()


def workers_alive() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]


def none_is_left() -> bool:
    return wait_until(lambda: not workers_alive())


class Defined(nn.Module):
    """Known by the name of this module, which a worker must find."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


@pytest.fixture(scope="module")
def linear() -> Classifier:
    return Classifier(fresh_weights(Defined, 0), spec=InputSpec(shape=(1, 8, 8)))


@pytest.fixture(scope="module")
def alone(teacher: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    return build_transfer_set(teacher, spec_of(), tmp_path_factory.mktemp("alone"), workers=1)


@pytest.fixture(scope="module")
def slow_alone(teacher: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    return build_transfer_set(teacher, SLOW, tmp_path_factory.mktemp("slow"), workers=1)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_makes_the_same_bytes(
    teacher: Classifier, alone: TransferSet, tmp_path: Path, workers: int
) -> None:
    told = Told()
    made = build_transfer_set(teacher, spec_of(), tmp_path, workers=workers, progress=told)
    assert hashes(tmp_path) == hashes(alone.folder)
    assert len(hashes(tmp_path)) == SHARDS
    assert made.manifest == alone.manifest
    assert sum(told.units) == spec_of().count
    assert none_is_left()


def test_workers_go_on_with_a_set_that_one_process_began(
    teacher: Classifier, alone: TransferSet, tmp_path: Path
) -> None:
    seen: list[int] = []

    def stop_behind_two_shards() -> None:
        if len(hashes(tmp_path)) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_transfer_set(teacher, spec_of(), tmp_path, progress=Told(stop_behind_two_shards))
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*")}
    told = Told(lambda: seen.extend(workers_alive()))
    build_transfer_set(teacher, spec_of(), tmp_path, workers=2, progress=told)
    assert seen
    assert told.units[0] == 40
    assert sum(told.units) == spec_of().count
    assert hashes(tmp_path) == hashes(alone.folder)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == kept


def test_no_more_workers_are_started_than_there_are_shards_to_make(
    teacher: Classifier, tmp_path: Path
) -> None:
    seen: set[int] = set()
    told = Told(lambda: seen.update(workers_alive()))
    build_transfer_set(teacher, replace(SLOW, count=40), tmp_path, workers=9, progress=told)
    assert len(seen) == 2


def test_a_worker_killed_in_the_middle_changes_nothing(
    teacher: Classifier, slow_alone: TransferSet, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_one() -> None:
        busy = workers_alive()
        if busy and not killed and hashes(tmp_path):
            os.kill(busy[0], signal.SIGKILL)
            killed.append(busy[0])

    build_transfer_set(teacher, SLOW, tmp_path, workers=2, progress=Told(kill_one))
    assert killed
    assert hashes(tmp_path) == hashes(slow_alone.folder)
    assert none_is_left()


def test_images_made_again_by_another_worker_are_told_of_once(teacher: Classifier, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_one() -> None:
        busy = workers_alive()
        if busy and not killed and sum(told.units) > 0:
            os.kill(busy[0], signal.SIGKILL)
            killed.append(busy[0])

    told = Told(kill_one)
    build_transfer_set(teacher, replace(SLOW, count=40), tmp_path, workers=2, progress=told)
    assert killed
    assert sum(told.units) == 40


def test_workers_killed_again_and_again_end_in_one_line(teacher: Classifier, tmp_path: Path) -> None:
    killed: set[int] = set()

    def kill_all() -> None:
        for pid in workers_alive():
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)

    with pytest.raises(ZskdError, match=r"worker processes died 3 times in a row .*give --workers 1") as told:
        build_transfer_set(teacher, SLOW, tmp_path, workers=2, progress=Told(kill_all))
    assert "\n" not in str(told.value)
    assert len(killed) >= 3
    assert none_is_left()


def test_an_error_in_a_worker_arrives_as_it_would_from_this_process(
    linear: Classifier, tmp_path: Path
) -> None:
    """Pixels grow by so much at every step that the first few steps, which are timed, are still finite.

    Of two shards that fail at different steps, either may be the first.
    """
    spec = spec_of(steps=60, learning_rate=1.5e37, pixels="free", tolerance=0.0, noise_share=0.0)
    messages = []
    for workers in (1, 2):
        told = Told()
        with pytest.raises(ZskdError, match="the loss is not finite") as raised:
            build_transfer_set(linear, spec, tmp_path / str(workers), workers=workers, progress=told)
        assert told.said, "the work had not begun"
        messages.append(re.sub(r"at step \d+", "at some step", str(raised.value)))
        assert not hashes(tmp_path / str(workers))
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]
    assert none_is_left()


def test_an_interruption_ends_the_workers(teacher: Classifier, tmp_path: Path) -> None:
    seen: list[int] = []

    def interrupt() -> None:
        seen.extend(workers_alive())
        if seen:
            raise KeyboardInterrupt

    endless = spec_of(steps=10_000, tolerance=0.0)
    with pytest.raises(KeyboardInterrupt):
        build_transfer_set(teacher, endless, tmp_path, workers=2, progress=Told(interrupt))
    assert seen
    assert none_is_left()
    assert not hashes(tmp_path)


def nothing(_shared: None, _number: int, _on_progress: Callable[[int], None]) -> None:
    pass


@remembered()
def start_after(results: int, timer: threading.Timer) -> None:
    """Run thousands of tasks, and start the timer in the middle of them."""
    with closing(each_done(nothing, None, range(4000), workers=2, on_progress=lambda _: None)) as tasks:
        for number, _ in enumerate(tasks):
            if number == results:
                timer.start()


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("after", [1, 50, 250, 800])
def test_an_interruption_at_any_moment_of_many_tasks_ends_the_workers(after: int) -> None:
    """It once kept the locks of some of them, and then the pool could not be shut down."""
    main = threading.get_ident()
    for turn in range(4):
        later = threading.Timer(0.003 * turn, signal.pthread_kill, (main, signal.SIGINT))
        with pytest.raises(Stopped):
            start_after(after, later)
        later.join()
        assert none_is_left()


def test_a_network_that_cannot_be_packed_wants_one_worker(tmp_path: Path) -> None:
    class Local(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1))

    teacher = Classifier(fresh_weights(Local, 0), spec=InputSpec(shape=(1, 8, 8)))
    with pytest.raises(ZskdError, match=r"^the network cannot be sent.*give --workers 1, or define") as told:
        build_transfer_set(teacher, spec_of(), tmp_path / "two", workers=2)
    assert "\n" not in str(told.value)
    assert len(build_transfer_set(teacher, spec_of(), tmp_path / "one", workers=1)) == spec_of().count


def test_a_network_of_a_module_of_ones_own_is_found_by_the_workers(
    linear: Classifier, tmp_path: Path
) -> None:
    for workers in (1, 2):
        build_transfer_set(linear, spec_of(), tmp_path / str(workers), workers=workers)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")


UNITS = 2_000_000


def count_up(_shared: None, _number: int, on_progress: Callable[[int], None]) -> None:
    for _ in range(UNITS):
        on_progress(1)


def test_no_unit_is_lost_however_fast_they_are_told() -> None:
    told: list[int] = []
    for _ in each_done(count_up, None, [0, 1, 2, 3], workers=2, on_progress=told.append):
        pass
    assert min(told) >= 0
    assert sum(told) == 4 * UNITS


SCRIPT = """
import sys
from pathlib import Path
from zskd import load_checkpoint
from zskd.config.synthesis import SynthesisConfig
from zskd.synthesis.spec import SetSpec
from zskd.synthesis.build import build_transfer_set

def main():
    synthesis = SynthesisConfig(steps=int(sys.argv[3]), tolerance=0.0, shard_size=20, batch_size=8)
    spec = SetSpec(count=80, synthesis=synthesis)
    build_transfer_set(load_checkpoint(Path(sys.argv[1]))[0], spec, Path(sys.argv[2]), workers=2)
    print("made")

GUARD
    main()
"""


def script(folder: Path, guard: str = 'if __name__ == "__main__":') -> Path:
    path = folder / "script.py"
    path.write_text(SCRIPT.replace("GUARD", guard))
    return path


def descendants(pid: int) -> dict[int, str]:
    """Children, their children and so on, with the state that the system gives each."""
    parents: dict[int, list[int]] = {}
    states: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (line := stat(int(entry.name))):
            states[int(entry.name)] = line[0]
            parents.setdefault(int(line[1]), []).append(int(entry.name))
    found, left = {}, [pid]
    while left:
        for child in parents.get(left.pop(), []):
            found[child] = states[child]
            left.append(child)
    return found


def stat(pid: int) -> list[str]:
    """State and parent and what follows of a process; nothing when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


def gone(pid: int) -> bool:
    return stat(pid)[:1] in ([], ["Z"], ["X"])


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@needs_proc
def test_no_process_outlives_a_script_that_was_killed(teacher_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(script(tmp_path)), str(teacher_folder), str(tmp_path / "set"), "10000"]
    with subprocess.Popen(command) as process:
        # the pool's server, its resource tracker and two workers
        assert wait_until(lambda: len(descendants(process.pid)) >= 4)
        time.sleep(0.5)
        others = list(descendants(process.pid))
        process.kill()
        process.wait()
    assert len(others) >= 4
    assert wait_until(lambda: all(map(gone, others))), [pid for pid in others if not gone(pid)]


@needs_proc
def test_no_process_outlives_a_script_that_is_done(teacher_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(script(tmp_path)), str(teacher_folder), str(tmp_path / "set"), "20"]
    others: set[int] = set()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            others |= descendants(process.pid).keys()
            time.sleep(0.05)
        assert process.returncode == 0
        assert process.stdout is not None
        assert process.stdout.read() == "made\n"
    assert len(others) >= 4
    assert wait_until(lambda: all(map(gone, others))), [pid for pid in others if not gone(pid)]


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_workers_killed_while_they_start_end_in_one_line(teacher_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zskd", "synthesize", str(teacher_folder), "--quiet", "--workers", "2"]
    command += ["--count", "80", "--synthesis.shard-size", "20", "--out", str(tmp_path / "set")]
    killed = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            for server in children(process.pid):
                for worker in children(server):
                    with suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGKILL)
                        killed += 1
        out, errors = process.communicate()
    assert killed
    assert out == ""
    assert process.returncode == 2, errors
    (line,) = errors.splitlines()
    assert line.startswith("zskd: error: worker processes died 3 times in a row")


def test_a_script_without_its_guard_is_told_what_is_missing(teacher_folder: Path, tmp_path: Path) -> None:
    path = script(tmp_path, guard="if True:")
    command = [sys.executable, str(path), str(teacher_folder), str(tmp_path / "set"), "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if "worker processes died 3 times in a row" in line]
    assert told, done.stderr
    assert 'if __name__ == "__main__":' in told[-1]
