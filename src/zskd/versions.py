"""What software and processor a result was made with."""

from __future__ import annotations

import os
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
def processor() -> dict[str, str | int]:
    """Return the processor's name and the number of cores that this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return {"name": name, "cores": usable_cores(), "system": platform.system()}


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
        if Path(git("rev-parse", "--show-toplevel")) != here.parents[1]:
            return None  # a virtual environment inside somebody else's repository
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(here)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def usable_cores() -> int:
    """Return how many cores this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)
