"""Synthesis of a transfer set, shard by shard.

The determinism contract: a shard's bytes are a function of the teacher's weights, its `SetSpec` and its
number, on one machine and set of versions. A worker uses one thread; a batch always has the same size;
every image has its own random streams and Adam state. Hence shards can be made in any process and order,
and a set of the interleaved order is the beginning of every larger one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from zskd.core.code import code_sha256, is_code
from zskd.core.device import usable_cores, use_threads
from zskd.core.errors import ZskdError
from zskd.core.parallel import each_done
from zskd.core.progress import Progress, readable_bytes, readable_seconds
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.shard import make_shard, missed_target, plan_shard
from zskd.synthesis.spec import SetSpec, spec_values
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import Provenance, Resolved, ShardEntry
from zskd.transfer_set.shard import Shard, write_shard
from zskd.transfer_set.writer import Writer


def build_transfer_set(
    teacher: Classifier,
    spec: SetSpec,
    folder: Path,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> TransferSet:
    """Make the shards that are missing in `folder` and return the whole set.

    Args:
        teacher: on the device that the images are optimised on; used in evaluation mode, left as it is.
        spec: method, count, seed and settings.
        folder: of this set alone; complete shards of the same spec in it are not made again.
        workers: processes that make shards in parallel, each with one thread; 0: one per core; 1: this
            process alone. A script that sets more needs `if __name__ == "__main__":`.
        progress: reports every image.

    Raises:
        ZskdError: the folder holds a set of another spec, the disk is too small, a loss is not finite, or
            the teacher cannot be sent to another process.
    """
    progress = progress or Progress()
    writer = open_writer(teacher, spec, folder)
    if writer.complete:
        return TransferSet(folder)
    missing = [k for k in range(spec.shards(teacher.classes)) if k not in writer.done]
    if missing:
        workers = min(shard_workers(teacher, workers), len(missing))
        _announce(teacher, spec, len(missing), folder, workers, progress)
        ready = sum(len(spec.indices(k, teacher.classes)) for k in writer.done)
        with progress.task(f"synthesis ({spec.method})", spec.count, "images", done=ready) as task:
            made = make_shards(teacher, spec, folder, missing, workers=workers, on_progress=task.advance)
            for number, entry in made:
                writer.add(number, entry)
    writer.finish(dropped=spec.count - sum(entry.count for entry in writer.done.values()))
    return TransferSet(folder)


def open_writer(teacher: Classifier, spec: SetSpec, folder: Path) -> Writer:
    """Return the writer of a set's manifest.

    Args:
        teacher: that the set is made with.
        spec: of the set.
        folder: of this set alone.

    Raises:
        ZskdError: the folder holds a set of another spec.
    """
    resolved = Resolved(threads=1, device=teacher.device.type, dtype="float32", **teacher.how_run())
    # another version of the user's own code makes another set
    code = {name: code_sha256(name) for name in (spec.method, spec.synthesis.start) if is_code(name)}
    provenance = Provenance(spec=spec_values(spec), teacher_sha256=teacher.fingerprint(), resolved=resolved)
    if code:
        provenance = provenance.model_copy(update={"code": code})
    return Writer(folder, provenance, class_names=teacher.class_names, shape=teacher.spec.shape)


def shard_workers(teacher: Classifier, workers: int) -> int:
    """Return how many processes make shards: `workers`, or one per core for 0; on a GPU always one."""
    return (workers or usable_cores()) if teacher.device.type == "cpu" else 1


def make_shards(
    teacher: Classifier,
    spec: SetSpec,
    folder: Path,
    numbers: Sequence[int],
    *,
    workers: int,
    on_progress: Callable[[int], None],
) -> Iterator[tuple[int, ShardEntry]]:
    """Write some shards of a set and yield number and manifest entry of each; the manifest is not written.

    Args:
        teacher: as for `build_transfer_set`.
        spec: of the set.
        folder: of the set.
        numbers: of the shards.
        workers: processes.
        on_progress: called with numbers of finished images.

    Raises:
        ZskdError: a loss is not finite, none of a shard's images is left, or the teacher cannot be sent to
            another process.
    """
    return each_done(_write_one, (teacher, spec, folder), numbers, workers=workers, on_progress=on_progress)


def _write_one(
    shared: tuple[Classifier, SetSpec, Path], number: int, on_progress: Callable[[int], None]
) -> ShardEntry:
    """Make one shard and write it, in a worker."""
    teacher, spec, folder = shared
    shard = make_shard(teacher, spec, number, on_progress=on_progress)
    dropped = len(spec.indices(number, teacher.classes)) - len(shard)
    return write_shard(
        folder, number, shard, missed=int(missed_target(shard, spec.synthesis).sum()) + dropped
    )


def _announce(
    teacher: Classifier, spec: SetSpec, shards: int, folder: Path, workers: int, progress: Progress
) -> None:
    """Log the longest time that the missing shards may take and the disk space they need.

    The time is measured on a few steps, and holds if every image uses all its steps.

    Raises:
        ZskdError: the disk has no room for them.
    """
    images = min(spec.count, shards * spec.shard_size(teacher.classes))
    need = images * Shard.bytes_per_image(teacher.spec.shape, teacher.classes)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise ZskdError(
            f"{images:,} images need {readable_bytes(need)} and {folder} has {readable_bytes(free)} free: "
            "make room, or lower --count"
        )
    seconds = images * seconds_per_image(teacher, spec) / workers
    progress.log(
        f"{spec.method}: {images:,} images of {spec.synthesis.steps if spec.optimises else 0} steps at most, "
        f"{readable_seconds(seconds)} at most, {readable_bytes(need)} in {folder}"
    )
    how = ", ".join(f"{key} {value}" for key, value in teacher.how_run().items())
    progress.detail(f"{spec.method}: {workers} workers of 1 thread on {teacher.device}; teacher: {how}")


def seconds_per_image(teacher: Classifier, spec: SetSpec) -> float:
    """Return the core seconds of one image of a set that uses all its steps, estimated from a few steps."""
    lanes, steps = spec.synthesis.batch_size, min(3, spec.synthesis.steps)
    never_stop = replace(spec.synthesis, tolerance=0.0, missed="keep")
    probe = replace(spec, count=max(spec.count, 2 * lanes), synthesis=never_stop)

    def timed(count: int) -> float:
        config = replace(probe, synthesis=replace(probe.synthesis, steps=count))
        started = time.perf_counter()
        with frozen(teacher), use_threads(1), torch.no_grad():
            plan = plan_shard(teacher, config, list(range(2 * lanes)))
            if len(plan.rows):
                invert(teacher, plan.batch, config.synthesis, config.objective)
        return (time.perf_counter() - started) / (2 * lanes)

    timed(steps)
    fixed, with_steps = timed(0), timed(steps)
    return fixed + max(with_steps - fixed, 0) / max(steps, 1) * spec.synthesis.steps
