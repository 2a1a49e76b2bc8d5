"""A plan in words and in JSON: the parts of a run, its time with several workers, and what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zskd.config.checks import check_range
from zskd.core.progress import readable_bytes, readable_seconds
from zskd.core.tables import Table
from zskd.run.plan.parts import MOST_WORKERS, Part, Parts

_HOUR = 3600
_SHOWN = 3
"""Stages that are named for the most workers."""
_MANY = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A model of a GPU: it does the multiply-adds of all passes at one rate, and nothing else takes time."""

    tflops: float = 19.5
    """Its peak in 10¹² operations per second; a multiply-add is two. 19.5 is an A100 in float32, as NVIDIA
    gives it."""
    utilisation: float = 0.2
    """Share of the peak that is reached, above 0 and at most 1: assumed."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range("--gpu-tflops", self.tflops, 0, above=True)
        check_range("--gpu-utilisation", self.utilisation, 0, 1, above=True)

    def hours(self, multiply_adds: int) -> float:
        """Return the hours of so many multiply-adds."""
        return 2 * multiply_adds / (self.tflops * 1e12 * self.utilisation) / _HOUR


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run takes, and with how many workers.

    Args:
        parts: measured.
        workers: numbers of workers to tell the time for, each at least 1.
        price: money for an hour of a core; None: not told.
        gpu: the model.
    """

    parts: Parts
    workers: Sequence[int] = (1, 8, 64)
    price: float | None = None
    gpu: Gpu = Gpu()

    def __post_init__(self) -> None:
        """Check the ranges."""
        for number in self.workers:
            check_range("--for-workers", number, 1)
        if self.price is not None:
            check_range("--price", self.price, 0)

    def stage_table(self) -> Table:
        """Return the table of the stages: passes, seconds of one core, and how many workers help."""
        rows = [_row(name, parts) for name, parts in self.parts.stages.items()]
        return Table(
            ["stage", "teacher passes", "student passes", "time of one core", "workers that help"],
            [*rows, _row("all", self.parts.parts)],
        )

    def workers_table(self) -> Table:
        """Return the table of the time by number of workers."""
        head = ["workers", "time", "core-hours", "at work"]
        rows = []
        for one in self.at_workers():
            row = [
                f"{one['workers']:,}",
                readable_seconds(one["seconds"]),
                core_hours(one["core_hours"]),
                f"{100 * one['at_work']:.0f} %",
            ]
            rows.append(row if self.price is None else [*row, f"{one['money']:.2f}"])
        return Table(head if self.price is None else [*head, "money"], rows)

    def at_workers(self) -> list[dict[str, Any]]:
        """Return the time, the core-hours paid for, the share of them at work, and the money, by workers."""
        found = []
        for workers in self.workers:
            seconds = self.parts.seconds(workers)
            hours = workers * seconds / _HOUR
            values = {
                "workers": workers,
                "seconds": round(seconds, 3),
                "core_hours": hours,
                "at_work": self.parts.working_seconds(workers) / (workers * seconds),
                "seconds_by_stage": {
                    stage: round(one, 3) for stage, one in self.parts.by_stage(workers).items()
                },
            }
            if self.price is not None:
                values["money"] = hours * self.price
            found.append(values)
        return found

    def notes(self) -> list[str]:
        """Return what does not scale, what a worker and the disk need, and the GPU-hours of the model."""
        parts, most = self.parts, self.parts.by_stage(MOST_WORKERS)
        longest = sorted(most, key=lambda stage: -most[stage])[:_SHOWN]
        named = ", ".join(f"{stage} {readable_seconds(most[stage])}" for stage in longest)
        overhead = parts.overhead
        lines = [
            f"More than {parts.worth():,} workers save less than 5 %. Simulated with {MOST_WORKERS:,}: "
            f"{readable_seconds(parts.seconds(MOST_WORKERS))},",
            f"most of it {named}.",
            f"Engine: {1000 * overhead.task:.1f} ms for a task, {overhead.start:.1f} s to start workers, "
            f"{overhead.first:.1f} s once more.",
            f"Memory: {readable_bytes(self.memory)} for each worker. Disk: {readable_bytes(self.disk)}.",
            f"GPU, a model and not measured: {_hours(self.gpu_hours)} GPU-hours at "
            f"{self.gpu.tflops:g} TFLOP/s × {100 * self.gpu.utilisation:g} %.",
        ]
        if any(part.at_most for part in parts.parts):
            lines.append("≤: no shard was made here; less where images meet their targets early.")
        return lines

    @property
    def memory(self) -> int:
        """Bytes that each worker needs."""
        return max(part.memory for part in self.parts.parts)

    @property
    def disk(self) -> int:
        """Bytes that stay on the disk."""
        return sum(part.disk for part in self.parts.parts)

    @property
    def gpu_hours(self) -> float:
        """Hours of the model of a GPU."""
        return self.gpu.hours(sum(part.multiply_adds for part in self.parts.parts))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values; seconds are those of one core unless they have workers."""
        overhead = self.parts.overhead
        return {
            "stages": {name: _values(parts) for name, parts in self.parts.stages.items()},
            "workers": self.at_workers(),
            "workers_that_help": self.parts.worth(),
            "seconds_with_most_workers": round(self.parts.seconds(MOST_WORKERS), 3),
            "most_workers": MOST_WORKERS,
            "overhead": {
                "first_start_seconds": round(overhead.first, 3),
                "start_seconds": round(overhead.start, 3),
                "seconds_per_task": round(overhead.task, 6),
            },
            "memory_bytes_per_worker": self.memory,
            "disk_bytes": self.disk,
            "gpu_model": {
                "measured": False,
                "tflops": self.gpu.tflops,
                "utilisation": self.gpu.utilisation,
                "hours": self.gpu_hours,
            },
        }


def core_hours(hours: float) -> str:
    """Return core-hours with three digits or more."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _values(parts: Sequence[Part]) -> dict[str, Any]:
    return {
        "core_seconds": round(sum(part.core_seconds for part in parts), 3),
        "serial_seconds": round(sum(part.serial for part in parts), 3),
        "at_most": any(part.at_most for part in parts),
        "workers_that_help": _helping(parts),
        "teacher_passes": sum(part.passes.teacher for part in parts),
        "student_passes": sum(part.passes.student for part in parts),
        "multiply_adds": sum(part.multiply_adds for part in parts),
        "memory_bytes_per_worker": max(part.memory for part in parts),
        "disk_bytes": sum(part.disk for part in parts),
    }


def _row(name: str, parts: Sequence[Part]) -> list[str]:
    found = _values(parts)
    at_most = "≤ " if found["at_most"] else ""
    return [
        name,
        _passes(found["teacher_passes"], at_most),
        _passes(found["student_passes"]),
        at_most + readable_seconds(found["core_seconds"]),
        f"{found['workers_that_help']:,}",
    ]


def _passes(count: int, at_most: str = "") -> str:
    if not count:
        return "–"
    return at_most + (f"{count:,}" if count < _MANY else f"{count / 1e6:,.0f} M")


def _hours(hours: float) -> str:
    return f"{hours:,.3f}" if hours >= 0.001 else "less than 0.001"


def _helping(parts: Sequence[Part]) -> int:
    return max(1, *(len(part.alone) for part in parts))
