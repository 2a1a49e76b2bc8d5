"""What `make bench` measures. Every function here runs in a process of its own and returns plain values."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

import zskd
from plain import distillation_step, our_images, plain_network, reproduction_images
from zskd.checkpoint import load_checkpoint
from zskd.inspection import count_multiply_adds
from zskd.inversion import Work, draw_starts, draw_warps, invert
from zskd.machine import use_threads
from zskd.students import room_for_helper, threads_of_each
from zskd.synthesis import label
from zskd.teachers import describe_student, fresh_student
from zskd.transfer_set import Writer, write_shard

IMPRESSIONS = zskd.Synthesis(noise_share=0.0)
"""The default, but every image is optimised."""


def open_teacher(folder: Path) -> zskd.Classifier:
    """Return the teacher that everything is measured with."""
    return load_checkpoint(folder)[0].freeze()


def matrix_rate(side: int = 2048) -> float:
    """Return multiply-adds per second of a large matrix product, with the threads that are set."""
    left, right = torch.randn(side, side), torch.randn(side, side)
    return side**3 / _seconds(lambda: left @ right, 3)


def targets_file(teacher_folder: Path, count: int, folder: Path) -> dict[str, Any]:
    """Make zskd's set of impressions; its targets are what the plain loops are given too."""
    teacher = open_teacher(teacher_folder)
    spec = zskd.SetSpec(count=count, synthesis=IMPRESSIONS)
    started = time.perf_counter()
    made = zskd.build_transfer_set(teacher, spec, folder, workers=0)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "images": count} | _quality(made, IMPRESSIONS.tau)


def plain_set(teacher_folder: Path, like: Path, folder: Path, settings: str) -> dict[str, Any]:
    """Make a set for the same targets by a plain loop on all cores: "reproduction" or "ours"."""
    teacher, given = open_teacher(teacher_folder), zskd.TransferSet(like)
    targets, anchors = (torch.cat([getattr(s, name) for s in given]) for name in ("targets", "anchors"))
    network, config = plain_network(teacher), IMPRESSIONS
    started = time.perf_counter()
    with use_threads(0):
        if settings == "reproduction":
            config = replace(config, tau=20.0)
            images = reproduction_images(network, targets)
        else:
            starts = draw_starts("smooth", list(range(len(targets))), seed=0, shape=(1, 32, 32), box=(0, 1))
            images = our_images(network, starts, targets, config)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        steps = torch.full((len(images),), config.steps, dtype=torch.int32)
        shard = label(teacher, images, targets, anchors, steps, config)
    writer = Writer(
        folder,
        {"spec": {"method": settings}, "teacher_sha256": teacher.fingerprint()},
        class_names=teacher.class_names,
        shape=teacher.spec.shape,
    )
    writer.add(0, write_shard(folder, 0, shard))
    writer.finish()
    return {"seconds": seconds, "images": len(images)} | _quality(zskd.TransferSet(folder), config.tau)


def _quality(made: zskd.TransferSet, tau: float) -> dict[str, Any]:
    facts = made.manifest
    return {"tau": tau, "mean_kl": facts["mean_kl"], "argmax_match": 100 * facts["anchor_match"]}


def student(teacher_folder: Path, folder: Path, steps: int, seed: int, data: zskd.Data) -> dict[str, float]:
    """Distil a student by zskd on all cores and measure it once on the test images."""
    teacher, recipe = open_teacher(teacher_folder), zskd.Recipe()
    started = time.perf_counter()
    with use_threads(threads_of_each(recipe, 1)):
        fresh = fresh_student(describe_student("half", teacher), teacher, seed).module
        config, helper = zskd.Distill(steps=steps), room_for_helper(recipe)
        made = zskd.distill(teacher, zskd.TransferSet(folder), fresh, config, seed=seed, helper=helper)
    seconds = time.perf_counter() - started
    test = zskd.load_data(data, teacher.spec.shape).test
    return {"seconds": seconds, "test_accuracy": zskd.accuracy(made, test).percent}


def impression_step(teacher_folder: Path, implementation: str, steps: int = 20) -> dict[str, float]:
    """Return µs for one step of one impression on one thread, and the limit of the same minute.

    The limit is the arithmetic of a forward and a backward pass at the rate of a large matrix product.
    """
    teacher = open_teacher(teacher_folder)
    config, count = replace(IMPRESSIONS, steps=steps, tolerance=0.0), 400
    owned = list(range(count))
    starts = draw_starts("smooth", owned, seed=0, shape=(1, 32, 32), box=(0, 1))
    targets = F.softmax(torch.randn(count, teacher.classes), dim=1)
    work = Work(starts, targets, draw_warps(owned, steps, seed=0))
    network = plain_network(teacher)

    def ours() -> None:
        with torch.no_grad():
            invert(teacher, work, config)

    def plain() -> None:
        our_images(network, starts, targets, config)

    run = {"zskd": ours, "plain": plain}[implementation]
    with use_threads(1):
        if implementation == "zskd":
            keep_freed_memory()
        seconds, rate = _seconds(run, 5), matrix_rate()
    microseconds = seconds / (count * steps) * 1e6
    return {"microseconds": microseconds, "limit": 2 * count_multiply_adds(teacher) / rate * 1e6}


def distilled_image(
    teacher_folder: Path, folder: Path, implementation: str, cores: int, steps: int = 200
) -> dict[str, float]:
    """Return µs for one image in one step of distillation, and the limit of the same minute.

    The limit counts one forward pass of the teacher and three of the student, on as many cores.
    """
    teacher, images = open_teacher(teacher_folder), zskd.TransferSet(folder)
    fresh = fresh_student(describe_student("half", teacher), teacher, 0)
    config = zskd.Distill(steps=steps)
    helper = cores > 1
    if implementation == "plain":
        network, pupil = plain_network(teacher).requires_grad_(False), plain_network(fresh)
        with use_threads(cores):
            step = distillation_step(network, pupil, images.all_images(), config)
            seconds = _seconds(step, steps)
    else:

        def some(count: int) -> float:
            started = time.perf_counter()
            zskd.distill(teacher, images, fresh.module, replace(config, steps=count), helper=helper)
            return time.perf_counter() - started

        with use_threads(cores // 2 if helper else 1):
            some(10)
            seconds = (some(10 + steps) - some(10)) / steps  # without what it takes to start
    with use_threads(cores):
        rate = matrix_rate()
    work = count_multiply_adds(teacher) + 3 * count_multiply_adds(fresh)
    return {"microseconds": seconds / config.batch_size * 1e6, "limit": work / rate * 1e6}


def growth(teacher_folder: Path, count: int, workers: int, folder: Path) -> dict[str, float]:
    """Return seconds and peak anonymous memory of making so many images of the default."""
    teacher = open_teacher(teacher_folder)
    with _peak_memory() as peak:
        started = time.perf_counter()
        zskd.build_transfer_set(teacher, zskd.SetSpec(count=count), folder, workers=workers)
        seconds = time.perf_counter() - started
    return {"images": count, "workers": workers, "seconds": seconds, "peak_megabytes": peak[0] / 1e6}


def default_set(teacher_folder: Path, count: int, noise_share: float, seed: int, folder: Path) -> float:
    """Return the seconds that a set of the default takes on all cores."""
    spec = zskd.SetSpec(count=count, seed=seed, synthesis=zskd.Synthesis(noise_share=noise_share))
    teacher = open_teacher(teacher_folder)
    started = time.perf_counter()
    zskd.build_transfer_set(teacher, spec, folder, workers=0)
    return time.perf_counter() - started


def _seconds(run: Callable[[], object], times: int) -> float:
    """Return the median time of a call, after one that does not count."""
    run()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return median(taken)


@contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """Follow the anonymous memory of this process and its workers, in bytes; the list holds the peak."""
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
    """Sum RssAnon over this process and all that it has started, as Linux tells it."""
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
