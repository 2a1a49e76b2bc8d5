"""The wheel with what it declares and nothing else, outside the checkout."""

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from limits import LIMIT

ROOT = Path(__file__).resolve().parents[2]


def call(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def with_its_own(found: Distribution, known: dict[str, Distribution]) -> dict[str, Distribution]:
    """Return a distribution and all that it requires, by name, without extras that nobody asks for."""
    for text in found.requires or ():
        needed = Requirement(text)
        extras = [*needed.extras, ""]
        if needed.name not in known and (
            needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras)
        ):
            known[needed.name] = distribution(needed.name)
            with_its_own(known[needed.name], known)
    return known


def link_what_is_declared(wheel: Distribution, into: Path) -> None:
    """Link the installed files of every requirement: an environment of exactly these takes no download."""
    for needed in with_its_own(wheel, {}).values():
        for top in {path.parts[0] for path in needed.files or () if path.parts[0] != ".."}:
            source = Path(str(needed.locate_file(top)))
            if source.exists() and source.suffix != ".pth" and not (into / top).exists():
                (into / top).symlink_to(source)


@pytest.mark.slow
def test_the_wheel_installs_into_an_empty_environment_and_runs(tmp_path: Path) -> None:
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    call(*build, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 1_000_000
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "zskd/py.typed",
        "zskd/__init__.pyi",
        "zskd/recipes/digits.yaml",
        "zskd/recipes/my-teacher.yaml",
        "zskd/recipes/presets/reproduction.yaml",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests", "docs", "examples", "studies"))]

    call(sys.executable, "-m", "venv", "--without-pip", "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    call(*pip, "install", "--quiet", "--no-deps", "--no-index", "--no-compile", wheel, cwd=tmp_path)
    (packages,) = (tmp_path / "env").glob("lib/python*/site-packages")
    link_what_is_declared(Distribution.at(next(packages.glob("zskd-*.dist-info"))), packages)
    assert not (packages / "pytest").exists()
    call(*pip, "check", cwd=tmp_path)
    where = call(python, "-c", "import zskd; print(zskd.__file__, zskd.__version__)", cwd=tmp_path).stdout
    assert str(tmp_path / "env") in where

    zskd = tmp_path / "env" / "bin" / "zskd"
    assert call(zskd, "--version", cwd=tmp_path).stdout.strip() == where.split()[-1]
    quick = ("--teacher.epochs", "2", "--count", "60", "--distill.steps", "10", "--held-out", "20", "--quiet")
    done = call(zskd, "run", "digits", *quick, cwd=tmp_path)
    assert "ZSKD (default)" in done.stdout
    assert (tmp_path / "runs" / "digits" / "README.md").is_file()


def test_the_citation_names_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
