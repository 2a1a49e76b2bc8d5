"""Kill -9 at any moment, Ctrl-C, two runs in one folder, a full disk."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from conftest import run_zskd, wait_for
from limits import LIMIT
from warm import KILL, zskd

# pictures of 16 pixels: a quarter of the work on the same paths, the teacher's weights taken over included.
# One process each: tests/contracts/test_workers.py kills workers.
SMALL = (
    *("run", "digits", "--threads", "1", "--workers", "1", "--quiet", "--out"),
    "run",
    *("--teacher.shape", "1", "16", "16", "--teacher.epochs", "12"),
    *("--count", "240", "--synthesis.shard-size", "60", "--synthesis.steps", "25"),
    *("--synthesis.batch-size", "20", "--distill.steps", "120", "--distill.batch-size", "60"),
    *("--controls", "noise_smooth", "--held-out", "40"),
)


def start(cwd: Path, command: Sequence[str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*(command or zskd()), *SMALL],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def hashes(folder: Path) -> dict[str, str]:
    """Teacher, sets, manifests and students, byte for byte."""
    files = [*folder.glob("**/*.safetensors"), *folder.glob("**/manifest.json"), *folder.glob("**/card.json")]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    done = run_zskd(*SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def uninterrupted(whole: Path) -> dict[str, str]:
    found = hashes(whole)
    assert len(found) == 2 + 2 * 5 + 4 * 2 + 2 * 2  # teacher, sets, held-out sets, students
    return found


# each holds from its moment on: on a busy machine the test may look late, and kills a little later then
MOMENTS = {
    "at once": lambda run: (run / "recipe.yaml").exists(),
    "while the teacher trains": lambda run: any((run / "teacher").glob("*.safetensors")),
    "behind the teacher": lambda run: (run / "teacher" / "card.json").exists(),
    "behind the first shard": lambda run: (run / "sets/zskd/manifest.json").exists(),
    "between two shards": lambda run: len(list((run / "sets/zskd").glob("shard-*"))) >= 2,
    "while the student learns": lambda run: any((run / "students/zskd").glob("*.safetensors")),
    "in the second arm": lambda run: any((run / "students/noise_smooth").glob("*.safetensors")),
    "while it measures": lambda run: (run / "held_out").exists(),
}


@pytest.mark.slow
def test_killed_at_every_moment_in_turn_the_same_command_ends_in_the_same_bytes(
    uninterrupted: dict[str, str], tmp_path: Path
) -> None:
    for moment in MOMENTS.values():
        process = start(tmp_path)
        wait_for(lambda moment=moment: moment(tmp_path / "run"), process)  # type: ignore[misc]
        process.send_signal(KILL)
        process.communicate()
    done = run_zskd(*SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert hashes(tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_killed_after_arbitrary_times(uninterrupted: dict[str, str], tmp_path: Path) -> None:
    for seconds in (0.1, 0.6, 1.2, 1.9):
        process = start(tmp_path)
        time.sleep(seconds)
        process.send_signal(KILL)
        process.communicate()
    assert run_zskd(*SMALL, cwd=tmp_path).returncode == 0
    assert hashes(tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_ctrl_c_prints_the_command_that_resumes_and_it_does(
    uninterrupted: dict[str, str], tmp_path: Path
) -> None:
    process = start(tmp_path)
    wait_for(lambda: (tmp_path / "run/sets/zskd/manifest.json").exists(), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1].endswith(f"to resume: zskd {' '.join(SMALL)}")
    assert run_zskd(*SMALL, cwd=tmp_path).returncode == 0
    assert hashes(tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    process = start(tmp_path, [sys.executable, "-m", "zskd"])
    wait_for(lambda: (tmp_path / "run/recipe.yaml").exists(), process)
    process.send_signal(signal.SIGSTOP)  # however slow the second one is, the first has not finished
    second = run_zskd(*SMALL, cwd=tmp_path)
    assert second.returncode == 2
    assert second.stderr.strip() == (
        "zskd: error: run is in use by another zskd process: wait for it, or choose another folder"
    )
    assert process.poll() is None
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_corrupted_shard_is_made_again(whole: Path, uninterrupted: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    shard = tmp_path / "run/sets/zskd/shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-7] + b"garbage")
    refused = run_zskd("verify", "run", cwd=tmp_path)
    assert refused.returncode == 2
    assert "shard-00001.safetensors is not the file that was written" in refused.stderr
    assert run_zskd(*SMALL, cwd=tmp_path).returncode == 0
    assert hashes(tmp_path / "run") == uninterrupted


def mounted(command: str, size: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell command where `./disk` is a file system of its own of that size."""
    script = f"mount -t tmpfs -o size={size} tmpfs disk && {command}"
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    return subprocess.run(
        [*namespace, "sh", "-c", script], cwd=cwd, capture_output=True, text=True, timeout=LIMIT, check=False
    )


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_leaves_whole_files(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    if shutil.which("unshare") is None or mounted("true", "1m", tmp_path).returncode:
        pytest.skip("this system lets the user mount no file system of a small size")
    zskd = f"{sys.executable} -m zskd"
    # room for the teacher but not for the whole set: refused before the work begins
    quick = "--teacher.epochs 1 --synthesis.steps 1 --workers 1 --quiet --out disk/run"
    done = mounted(f"{zskd} run digits {quick} --count 1000", "2m", tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("zskd: error: 1,000 images need 4 MB and disk/run/sets/zskd has ")
    assert len(done.stderr.strip().splitlines()) == 1
    # a disk that fills up on the way
    filler = "python3 -c \"open('disk/filler', 'wb').write(bytes(1_900_000))\""
    done = mounted(
        f"{filler}; {zskd} run digits {quick} --count 50; code=$?; ls -A disk/run/teacher; exit $code",
        "2m",
        tmp_path,
    )
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "model.safetensors" not in done.stdout
