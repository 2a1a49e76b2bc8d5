"""The wheel alone, in an empty environment, outside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from limits import LIMIT

ROOT = Path(__file__).resolve().parents[2]


def call(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


@pytest.mark.slow
def test_the_wheel_installs_into_an_empty_environment_and_runs(tmp_path: Path) -> None:
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    call(*build, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "zskd/py.typed",
        "zskd/__init__.pyi",
        "zskd/recipes/digits.yaml",
        "zskd/recipes/my-teacher.yaml",
        "zskd/recipes/presets/reproduction.yaml",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests", "docs", "studies"))]

    call(sys.executable, "-m", "venv", "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    constraints = ("-c", ROOT / "constraints.txt")
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")
    call(*install, *constraints, wheel, cwd=tmp_path)
    call(python, "-m", "pip", "check", cwd=tmp_path)
    where = call(python, "-c", "import zskd; print(zskd.__file__, zskd.__version__)", cwd=tmp_path).stdout
    assert str(tmp_path / "env") in where

    zskd = tmp_path / "env" / "bin" / "zskd"
    assert call(zskd, "--version", cwd=tmp_path).stdout.strip() == where.split()[-1]
    quick = ("--teacher.epochs", "2", "--count", "60", "--distill.steps", "10", "--held-out", "20", "--quiet")
    done = call(zskd, "run", "digits", *quick, cwd=tmp_path)
    assert "ZSKD (default)" in done.stdout
    assert (tmp_path / "runs" / "digits" / "README.md").is_file()
