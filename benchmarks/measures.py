"""The measurements of `make bench`. Each function runs in its own process and returns plain values."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

import zskd
from plain import distillation_step, our_images, plain_network, reproduction_images
from zskd.core.device import use_threads
from zskd.core.memory import keep_freed_memory
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.evaluation.inspection import count_multiply_adds
from zskd.models.checkpoint import load_checkpoint
from zskd.synthesis.inversion.initial import draw_initial, draw_warps
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.inversion.lanes import InversionBatch
from zskd.synthesis.shard import label
from zskd.transfer_set.manifest import Provenance
from zskd.transfer_set.shard import write_shard
from zskd.transfer_set.writer import Writer

IMPRESSIONS = zskd.SynthesisConfig(noise_share=0.0, shard_size=250)
"""The default with all images optimised, in small shards, so that all cores have work."""


def open_teacher(folder: Path) -> zskd.Classifier:
    """Return the teacher of all measurements."""
    return load_checkpoint(folder)[0].freeze()


def matrix_rate(side: int = 2048) -> float:
    """Return the multiply-adds per second of a large matrix product with the current number of threads."""
    left, right = torch.randn(side, side), torch.randn(side, side)
    return side**3 / _seconds(lambda: left @ right, 3)


def targets_file(
    teacher_folder: Path, count: int, folder: Path, steps: int = IMPRESSIONS.steps
) -> dict[str, Any]:
    """Make zskd's set of impressions on all cores; the plain loops get the same targets."""
    teacher = open_teacher(teacher_folder)
    config = replace(IMPRESSIONS, steps=steps)
    # starts the pool of workers: its imports are not timed
    first = zskd.SetSpec(count=200, synthesis=replace(config, shard_size=100, steps=1))
    zskd.build_transfer_set(teacher, first, folder.with_suffix(".first"), workers=0)
    spec = zskd.SetSpec(count=count, synthesis=config)
    started = time.perf_counter()
    made = zskd.build_transfer_set(teacher, spec, folder, workers=0)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "images": count} | _quality(made, config.tau)


def plain_set(teacher_folder: Path, like: Path, folder: Path, settings: str) -> dict[str, Any]:
    """Make a set for the same targets by a plain loop, all cores, settings "reproduction" or "ours"."""
    teacher, given = open_teacher(teacher_folder), zskd.TransferSet(like)
    targets, anchors = (torch.cat([getattr(s, name) for s in given]) for name in ("targets", "anchors"))
    network, config = plain_network(teacher), IMPRESSIONS
    started = time.perf_counter()
    with use_threads(0):
        if settings == "reproduction":
            config = replace(config, tau=20.0)
            images = reproduction_images(network, targets)
        else:
            owned = list(range(len(targets)))
            starts = draw_initial(config.start, owned, seed=0, shape=(1, 32, 32), box=(0, 1))
            images = our_images(network, starts, targets, config)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        steps = torch.full((len(images),), config.steps, dtype=torch.int32)
        shard = label(teacher, images, targets, anchors, steps, config)
    writer = Writer(
        folder,
        Provenance(spec={"method": settings}, teacher_sha256=teacher.fingerprint()),
        class_names=teacher.class_names,
        shape=teacher.spec.shape,
    )
    writer.add(0, write_shard(folder, 0, shard))
    writer.finish()
    return {"seconds": seconds, "images": len(images)} | _quality(zskd.TransferSet(folder), config.tau)


def _quality(made: zskd.TransferSet, tau: float) -> dict[str, Any]:
    facts = made.manifest
    return {"tau": tau, "mean_kl": facts.mean_kl, "argmax_match": 100 * facts.anchor_match}


def student(
    teacher_folder: Path, folder: Path, config: zskd.DistillConfig, seed: int, data: zskd.DataConfig
) -> dict[str, float]:
    """Distil a student by zskd on all cores and measure it once on the test images."""
    teacher, execution = open_teacher(teacher_folder), zskd.Execution()
    started = time.perf_counter()
    with use_threads(execution.threads_of_each(1)):
        fresh = fresh_student(describe_student("half", teacher), teacher, seed).module
        images, helper = zskd.TransferSet(folder), execution.has_room_for_helper()
        if config.start == "teacher":
            begun = zskd.initialise_from_teacher(
                teacher, fresh, images, config.augment, seed=seed, training=config
            )
            fresh = begun.student
        made = zskd.distill(teacher, fresh, images, config, seed=seed, helper=helper)
    seconds = time.perf_counter() - started
    test = zskd.load_data(data, teacher.spec.shape).test
    return {"seconds": seconds, "test_accuracy": zskd.accuracy(made, test).percent}


def impression_step(teacher_folder: Path, implementation: str) -> dict[str, float]:
    """Return µs for one step of one impression on one thread, and the limit, measured right after it.

    The limit is the arithmetic of a forward and a backward pass at the rate of a large matrix product.
    `implementation` is "plain", "zskd", or zskd without one optimisation.
    """
    teacher, some = open_teacher(teacher_folder), _Impressions()
    network = plain_network(teacher)
    teacher.rewrite = implementation != "not rewritten"
    if implementation not in ("plain", "freed memory given back"):
        keep_freed_memory()
    run = partial(our_images, network, some.starts, some.targets, some.config)
    if implementation != "plain":
        run = torch.no_grad()(partial(invert, teacher, some.batch, some.config))
    with use_threads(1), torch.autocast("cpu", torch.bfloat16, enabled=implementation == "in bfloat16"):
        seconds = _seconds(run, 5)
    with use_threads(1):
        rate = matrix_rate()
    limit = 2 * count_multiply_adds(teacher) / rate * 1e6
    return {"microseconds": seconds / some.steps * 1e6, "limit": limit}


def compiled_step(teacher_folder: Path) -> dict[str, float]:
    """Return the seconds that `torch.compile` takes, and µs for one step of one impression after that."""
    teacher, some = open_teacher(teacher_folder), _Impressions()
    keep_freed_memory()
    teacher.rewrite = False
    teacher.module.forward = torch.compile(teacher.module.forward)  # type: ignore[method-assign]
    run = torch.no_grad()(partial(invert, teacher, some.batch, some.config))
    with use_threads(1):
        started = time.perf_counter()
        run()
        first = time.perf_counter() - started
        return {"first_seconds": first, "microseconds": _seconds(run, 5) / some.steps * 1e6}


def profile(teacher_folder: Path, rows: int = 12) -> list[dict[str, Any]]:
    """Return the most expensive operations of one step of one impression, in µs."""
    teacher, some = open_teacher(teacher_folder), _Impressions()
    keep_freed_memory()
    with use_threads(1), torch.no_grad():
        invert(teacher, some.batch, some.config)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            invert(teacher, some.batch, some.config)
    found = sorted(profiler.key_averages(), key=lambda one: -one.self_cpu_time_total)
    largest = [
        {"operation": one.key, "microseconds": one.self_cpu_time_total / some.steps} for one in found[:rows]
    ]
    rest = sum(one.self_cpu_time_total for one in found[rows:]) / some.steps
    return [*largest, {"operation": "all others", "microseconds": rest}]


class _Impressions:
    """400 impressions of 20 steps each, none of which stops early."""

    def __init__(self, count: int = 400, steps: int = 20) -> None:
        owned = list(range(count))
        self.config = replace(IMPRESSIONS, steps=steps, tolerance=0.0)
        self.starts = draw_initial("smooth", owned, seed=0, shape=(1, 32, 32), box=(0, 1))
        self.targets = F.softmax(torch.randn(count, 10), dim=1)
        self.batch = InversionBatch(self.starts, self.targets, draw_warps(owned, steps, seed=0))
        self.steps = count * steps
        """Of all impressions together."""


def distilled_image(
    teacher_folder: Path, folder: Path, implementation: str, cores: int, steps: int = 200
) -> dict[str, float]:
    """Return µs for one image in one step of distillation, and the limit, measured right after it.

    Both take steps of Adam. The limit counts one forward pass of the teacher and three of the student, on as
    many cores.
    """
    teacher, images = open_teacher(teacher_folder), zskd.TransferSet(folder)
    fresh = fresh_student(describe_student("half", teacher), teacher, 0)
    config = zskd.DistillConfig(steps=steps, optimiser="adam")
    helper = cores > 1
    if implementation == "plain":
        network, student = plain_network(teacher).requires_grad_(False), plain_network(fresh)
        with use_threads(cores):
            step = distillation_step(network, student, images.all_images(), config)
            seconds = _seconds(step, steps)
    else:

        def some(count: int) -> float:
            started = time.perf_counter()
            zskd.distill(teacher, fresh.module, images, replace(config, steps=count), helper=helper)
            return time.perf_counter() - started

        with use_threads(cores // 2 if helper else 1):
            some(10)
            seconds = (some(10 + steps) - some(10)) / steps  # without the time to start
    with use_threads(cores):
        rate = matrix_rate()
    multiply_adds = count_multiply_adds(teacher) + 3 * count_multiply_adds(fresh)
    return {"microseconds": seconds / config.batch_size * 1e6, "limit": multiply_adds / rate * 1e6}


def growth(teacher_folder: Path, count: int, workers: int, folder: Path) -> dict[str, float]:
    """Return seconds and peak anonymous memory of making so many impressions."""
    teacher = open_teacher(teacher_folder)
    with _peak_memory() as peak:
        started = time.perf_counter()
        spec = zskd.SetSpec(count=count, synthesis=IMPRESSIONS)
        zskd.build_transfer_set(teacher, spec, folder, workers=workers)
        seconds = time.perf_counter() - started
    return {"images": count, "workers": workers, "seconds": seconds, "peak_megabytes": peak[0] / 1e6}


def default_set(teacher_folder: Path, count: int, settings: dict[str, Any], seed: int, folder: Path) -> float:
    """Return the seconds for a set of the default with some changed settings, on all cores."""
    spec = zskd.SetSpec(count=count, seed=seed, synthesis=zskd.SynthesisConfig(**settings))
    teacher = open_teacher(teacher_folder)
    started = time.perf_counter()
    zskd.build_transfer_set(teacher, spec, folder, workers=0)
    return time.perf_counter() - started


def _seconds(run: Callable[[], object], times: int) -> float:
    """Return the median time of a call in seconds, after one call that does not count."""
    run()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return median(taken)


@contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """Watch the anonymous memory of this process and its workers; the list holds the peak in bytes."""
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            peak[0] = max(peak[0], _anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def _anonymous_bytes() -> float:
    """Return the sum of Linux' RssAnon over this process and its child processes."""
    import psutil

    total = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        except OSError:  # it has just ended
            continue
        for line in status.splitlines():
            if line.startswith("RssAnon:"):
                total += 1024 * float(line.split()[1])
    return total
