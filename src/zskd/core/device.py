"""Cores, memory and device of this machine."""

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
"""Numbers of two options of `mallopt`, in glibc's malloc.h."""


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


@cache
def processor() -> dict[str, str | int]:
    """Return the name of the CPU, the number of usable cores and the operating system."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return {"name": name, "cores": usable_cores(), "system": platform.system()}


def choose_device(name: str) -> torch.device:
    """Return the device for a setting: "auto" is the first GPU (CUDA or ROCm) if there is one, else the CPU.

    Raises:
        ZskdError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # fails for `meta`, which holds no values
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise ZskdError(f"--device {name}: this machine has no such device: give auto or cpu") from error
    return device


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Set the number of torch threads inside the block; 0 for one per core."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def keep_freed_memory() -> None:
    """Let the allocator keep up to 256 MB of freed memory for the next allocation.

    The loops free and allocate the same few megabytes at every step. By default, glibc returns them to the
    system each time, and the page faults cost a third of a step. This has no effect on other allocators.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, 1 << 28)
    mallopt(_MMAP_THRESHOLD, 1 << 25)


def available_memory() -> int:
    """Return how many bytes this process can still allocate: the least of what the machine, the control group
    and the resource limits leave.
    """
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
    """Free memory of the control group (version 2, as in containers)."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    facts = dict(line.split() for line in lines)
    # the system reclaims cached pages of files on demand
    return [] if limit == "max" else [int(limit) - used + int(facts.get("inactive_file", 0))]


def _free_of_limits() -> list[int]:
    """Free memory under `ulimit -d` and `ulimit -v`."""
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
