"""Cores and device of this machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from zskd.core.errors import ZskdError
from zskd.core.precision import Precision
from zskd.core.progress import Progress


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


_READ_EVERY = 10
"""Steps between two readings of a device."""


def read_every(device: torch.device) -> int:
    """Return after how many steps a loop reads what it computes on a device: on the CPU, after every one.

    To read a number from a GPU waits for all work given to it, and meanwhile it gets no more.
    """
    return 1 if device.type == "cpu" else _READ_EVERY


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all work given to it, as what is timed must."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


_PINNED = frozenset({"cuda"})
"""Types of devices that copy from pinned memory while they do other work."""


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a copy from the CPU to a GPU does not wait for the GPU's other work.

    It would, from memory that is not pinned. torch keeps pinned memory until the copy is done.

    Args:
        value: on any device; the result is the tensor itself if it is on this one.
        device: CPU or GPU.
    """
    if device.type in _PINNED and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


_chosen = [True]
"""For each block of `use_threads` that is entered, the innermost last: whether its number was chosen."""


@contextmanager
def use_threads(count: int, *, chosen: bool = True) -> Iterator[None]:
    """Set the number of torch threads inside the block.

    Args:
        count: the number; 0 for one per core.
        chosen: whether the user chose it, rather than the number of this machine's cores; 0 is not chosen.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or usable_cores())
    _chosen.append(chosen and count > 0)
    try:
        yield
    finally:
        _chosen.pop()
        torch.set_num_threads(before)


def threads_are_chosen() -> bool:
    """Whether the innermost `use_threads` has a number that was chosen; also outside of all, where torch's
    holds."""
    return _chosen[-1]


def warn_if_slow(what: str, precision: Precision, device: torch.device, progress: Progress) -> None:
    """Log a warning where bfloat16 is emulated, which is many times slower than float32.

    Args:
        what: is computed in the precision, to begin the message.
        precision: of the settings.
        device: that it is computed on.
        progress: receives the warning.
    """
    if precision == "float32" or device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    progress.log(f"warning: {what}: this processor has no instructions for bfloat16: float32 is much faster")
