"""Memory of this machine: how much is free, how much a computation takes, and how many images fit well."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SMALL_PIXELS = 64 * 64
"""Pixels of an image up to which the usual numbers of images are handled at once."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of two options of `mallopt`, in glibc's malloc.h."""
_NO_LIMIT = 1 << 60
"""A limit of a control group from which on there is none."""


def is_large(shape: tuple[int, int, int]) -> bool:
    """Whether images of a shape (C, H, W) have more than 64×64 pixels."""
    return shape[1] * shape[2] > SMALL_PIXELS


def at_once(most: int, shape: tuple[int, ...]) -> int:
    """Return how many images to handle at once: `most`, or as many pixels of images that are large.

    It depends on nothing but the shape, because the number changes how results are rounded.

    Args:
        most: number of images of up to 64×64 pixels.
        shape: of an image or of a batch; it ends with height and width.
    """
    return max(1, min(most, most * SMALL_PIXELS // (shape[-2] * shape[-1])))


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


def available_memory(device: torch.device | None = None) -> int:
    """Return how many bytes this process can still allocate: the least of what the machine, the control group
    and the resource limits leave; on a GPU, the free memory of the GPU.
    """
    if device is not None and device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
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
    """Free memory of the control groups that this process is in."""
    membership = Path("/proc/self/cgroup")
    if not membership.is_file():
        return []
    return free_of_groups(Path("/sys/fs/cgroup"), membership.read_text(encoding="utf-8"))


def free_of_groups(root: Path, membership: str) -> list[int]:
    """Return the free memory of each control group with a limit, of version 1 or 2.

    Args:
        root: where the control groups are mounted, usually /sys/fs/cgroup.
        membership: content of /proc/self/cgroup: lines `number:controllers:path`.
    """
    found = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        names = ("max", "current") if not controllers else ("limit_in_bytes", "usage_in_bytes")
        # a container sees its own group at the root; elsewhere the limits of all parents hold
        for top in (root, root / (controllers or "unified")):
            inside = top / path.strip("/")
            folders = [inside, *inside.parents]
            found += [free for folder in folders[: folders.index(top) + 1] for free in _free(folder, *names)]
    return found


def _free(folder: Path, limit_name: str, usage_name: str) -> list[int]:
    try:
        limit = (folder / f"memory.{limit_name}").read_text(encoding="ascii").strip()
        used = int((folder / f"memory.{usage_name}").read_text(encoding="ascii"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    facts = dict(line.split() for line in lines)
    if limit == "max" or int(limit) >= _NO_LIMIT:
        return []
    # the system reclaims cached pages of files on demand
    return [int(limit) - used + int(facts.get("total_inactive_file", facts.get("inactive_file", 0)))]


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


def bytes_per_image(forward: Callable[[int], Any]) -> int:
    """Return about how many bytes a forward and backward pass takes for each image, at its peak.

    That is what the forward pass keeps for its gradients, and twice the largest of these tensors, for a
    layer's output and its gradient. They are compared on two and on four images: weights do not grow.

    Args:
        forward: runs the forward pass, with gradients, on so many images.
    """
    few, more = (_kept_sizes(partial(forward, count)) for count in (2, 4))
    growth = [(larger - smaller) // 2 for smaller, larger in zip(few, more, strict=False)]
    return sum(growth) + 2 * max(growth, default=0)


def _kept_sizes(work: Callable[[], Any]) -> list[int]:
    """Return the bytes of each tensor that is kept for a backward pass, in the order of the work."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return list(kept.values())
