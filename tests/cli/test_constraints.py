"""What `make` binds pip to: real pip in real environments, with a PyTorch that is nothing but its name."""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PINNED = (ROOT / "constraints.txt").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def call(*command: str | Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MAKEFLAGS")}
    return subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, check=False)


def environment(folder: Path, torch: str | None) -> Path:
    venv.create(folder)
    if torch:
        (packages,) = folder.glob("lib/python*/site-packages")
        known = packages / f"torch-{torch}.dist-info"
        known.mkdir()
        (known / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {torch}\n")
    return folder


def constraints(folder: Path, target: str) -> str:
    """Run what `make` would run to write the constraints, before the first installation of `target`."""
    told = call("make", "--dry-run", "--always-make", f"VENV={folder}", f"{folder}/{target}").stdout
    steps = told.splitlines()
    written = [number for number, step in enumerate(steps) if step.endswith(f"> {folder}/constraints.txt")]
    installed = [number for number, step in enumerate(steps) if " pip install " in step]
    assert written[0] < installed[0]
    assert written[-1] < installed[-1]
    assert all(f" -c {folder}/constraints.txt" in steps[number] for number in installed)
    done = call("sh", "-c", steps[written[-1]])
    assert done.returncode == 0, done.stderr
    return (folder / "constraints.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("target", [".installed", ".installed-dev"])
def test_an_installed_pytorch_is_kept(target: str, tmp_path: Path) -> None:
    folder = environment(tmp_path / "env", "2.14.1+cpu")
    text = constraints(folder, target)
    assert [line for line in text.splitlines() if line not in PINNED.splitlines()] == ["torch==2.14.1+cpu"]
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        folder / "bin" / "python",
        "install",
        "--dry-run",
        "--no-index",
    )
    done = call(*pip, "-c", folder / "constraints.txt", "torch>=2.10")
    assert done.returncode == 0, done.stderr
    assert "Requirement already satisfied: torch>=2.10" in done.stdout
    assert "Would install" not in done.stdout


@pytest.mark.parametrize("torch", [None, "2.9.1+cpu", "1.13.0"])
def test_a_fresh_environment_and_one_with_an_old_pytorch_get_the_pinned_one(
    torch: str | None, tmp_path: Path
) -> None:
    assert constraints(environment(tmp_path / "env", torch), ".installed") == PINNED


@pytest.mark.parametrize("torch", ["2.10.0", "2.15.0.dev20260901+cpu", "3.0"])
def test_every_new_enough_version_is_kept(torch: str, tmp_path: Path) -> None:
    assert f"\ntorch=={torch}\n" in constraints(environment(tmp_path / "env", torch), ".installed")


@pytest.mark.parametrize(("torch", "pinned"), [(None, True), ("2.13.0+cpu", True), ("2.14.1+cpu", False)])
def test_torchvision_is_the_one_of_the_pytorch(torch: str | None, pinned: bool, tmp_path: Path) -> None:
    """Every release of torchvision asks for one release of torch."""
    text = constraints(environment(tmp_path / "env", torch), ".installed-dev")
    assert ("\ntorchvision==" in text) is pinned


def install_torch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Without what this machine's pip is told elsewhere: where to look for packages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHONPATH"))}
    return subprocess.run(
        [folder / "bin" / "python", ROOT / "install_torch.py", *arguments],
        env=kept | {"PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("wanted", ["auto", "cpu", "cuda", "as-is"])
def test_pytorch_is_not_installed_again(wanted: str, tmp_path: Path) -> None:
    done = install_torch(environment(tmp_path / "env", "2.14.1+cpu"), wanted)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_size_and_time_are_told_before_a_download_and_pip_decides_where_there_is_no_index(
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    nothing = ("--no-index", "--find-links", str(tmp_path / "empty"))
    folder = environment(tmp_path / "env", None)
    venv.create(folder, with_pip=True)
    told = install_torch(folder, "cpu", *nothing)
    assert told.returncode == 0
    first, last = told.stdout.splitlines()
    assert re.match(r"PyTorch [\d.]+, cpu build: about 0\.2 GB to download.*minute", first)
    assert last.startswith("PyTorch was not found at https://download.pytorch.org/whl/cpu")
    told = install_torch(folder, "cuda", *nothing)
    assert (told.returncode, told.stdout.count("\n")) == (0, 1)
    assert "TORCH=cpu" in told.stdout
    wrong = install_torch(folder, "gpu")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "TORCH=gpu: it must be auto, cpu, cuda or as-is\n"
