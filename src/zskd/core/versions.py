"""What software a result was made with."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def _installed() -> str:
    try:
        return version("zskd")
    except PackageNotFoundError:  # a source tree on the path that was never installed
        return "0+uninstalled"


__version__ = _installed()


@cache
def versions() -> dict[str, str]:
    """Return the versions that can change a result's bytes."""
    import torch  # its own word tells the build as well: 2.13.0+cpu

    found = {name: version(name) for name in ("numpy", "scipy", "safetensors", "scikit-learn")}
    return {"zskd": __version__, "python": platform.python_version(), "torch": torch.__version__, **found}


@cache
def source_commit() -> str | None:
    """Return the commit of the checkout that this code runs from; None when it is installed from a wheel.

    A `+` behind it tells that files were changed since.
    """
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != here.parents[2]:
            return None  # a virtual environment inside somebody else's repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(here)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None
