"""What the machine has and how zskd uses it: cores, memory, device."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from zskd.core.errors import ZskdError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of two settings of glibc's allocator (malloc.h)."""


def usable_cores() -> int:
    """Return how many cores this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


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


def choose_device(wanted: str) -> torch.device:
    """Return the device that a setting means: "auto" is the first GPU of CUDA or ROCm, or else the processor.

    Raises:
        ZskdError: no such device.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device).cpu()  # of meta there is nothing to copy
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise ZskdError(f"--device {wanted}: this machine has no such device: give auto or cpu") from error
    return device


@contextmanager
def use_threads(wanted: int) -> Iterator[None]:
    """Use so many threads inside; 0 for one per core."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def keep_freed_memory() -> None:
    """Ask the allocator to keep up to 256 MB of freed memory for the next request.

    The loops free and take the same few megabytes at every step. glibc gives them back to the system each
    time, and the page faults of taking them again cost a third of a step. Other allocators are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, 1 << 28)
    mallopt(_MMAP_THRESHOLD, 1 << 25)


def available_memory() -> int:
    """Return how many bytes this process may still take: of the machine, its control group and its limits."""
    found = [_free_of_machine(), *_free_of_group(), *_free_of_limits()]
    return max(0, min(found))


def _free_of_machine() -> int:
    status = Path("/proc/meminfo")
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 2 << 30


def _free_of_group() -> list[int]:
    """Control group version 2, as containers see it."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    facts = dict(line.split() for line in lines)
    # pages of files are given back when they are wanted
    return [] if limit == "max" else [int(limit) - used + int(facts.get("inactive_file", 0))]


def _free_of_limits() -> list[int]:
    """`ulimit -d` and `ulimit -v`, where there are such."""
    try:
        import resource
    except ImportError:
        return []
    status = Path("/proc/self/status")
    if not status.is_file():
        return []
    fields = dict(
        line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line
    )
    free = []
    for limit, field in ((resource.RLIMIT_DATA, "VmData"), (resource.RLIMIT_AS, "VmSize")):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            free.append(soft - int(fields[field].split()[0]) * 1024)
    return free
