"""Versions of the software that made a result."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def _installed() -> str:
    try:
        return version("zskd")
    except PackageNotFoundError:  # a source tree that was not installed
        return "0+uninstalled"


__version__ = _installed()


@cache
def versions() -> dict[str, str]:
    """Return the versions that can change a result's bytes."""
    import torch  # its own version string includes the build: 2.13.0+cpu

    found = {name: version(name) for name in ("numpy", "scipy", "safetensors", "scikit-learn")}
    return {"zskd": __version__, "python": platform.python_version(), "torch": torch.__version__, **found}


@cache
def source_commit() -> str | None:
    """Return the git commit of this code, with a `+` if files were changed; None without a git checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != here.parents[2]:
            return None  # a virtual environment inside another repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(here)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None
