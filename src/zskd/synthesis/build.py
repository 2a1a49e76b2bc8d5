"""Making a transfer set, shard by shard.

The determinism contract: a shard's bytes are a function of the teacher's weights, its `SetSpec` and its
number, on one machine and set of versions. A worker uses one thread; a batch always has the same size;
every image owns its random streams and its Adam state. Hence shards can be made anywhere, in any order,
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
        teacher: on the device that is to do the work; asked in evaluation mode, and left as it is.
        spec: what to make.
        folder: of this set alone; whole shards of the same spec in it are kept.
        workers: processes that make shards side by side, each with one thread; 0 for one per core, 1 for
            none but this one. A script that asks for more needs `if __name__ == "__main__":`.
        progress: told of every image.

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
    """Return what lists the shards of a set.

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


def shard_workers(teacher: Classifier, wanted: int) -> int:
    """Return how many processes make shards: as many as are wanted, 0 for one per core."""
    # a GPU is kept busy by one process
    return (wanted or usable_cores()) if teacher.device.type == "cpu" else 1


def make_shards(
    teacher: Classifier,
    spec: SetSpec,
    folder: Path,
    numbers: Sequence[int],
    *,
    workers: int,
    on_progress: Callable[[int], None],
) -> Iterator[tuple[int, ShardEntry]]:
    """Write some shards of a set and give what a manifest says of each; none is listed yet."""
    return each_done(_write_one, (teacher, spec, folder), numbers, workers=workers, on_progress=on_progress)


def _write_one(
    shared: tuple[Classifier, SetSpec, Path], number: int, on_progress: Callable[[int], None]
) -> ShardEntry:
    """Make one shard and write it; the work of one worker."""
    teacher, spec, folder = shared
    shard = make_shard(teacher, spec, number, on_progress=on_progress)
    dropped = len(spec.indices(number, teacher.classes)) - len(shard)
    return write_shard(
        folder, number, shard, missed=int(missed_target(shard, spec.synthesis).sum()) + dropped
    )


def _announce(
    teacher: Classifier, spec: SetSpec, shards: int, folder: Path, workers: int, progress: Progress
) -> None:
    """Say how long the missing shards may take and how much disk they need; refuse a disk too small.

    The time is measured on a few steps, and is what it takes when every image uses up its steps.
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
    """Return what one image of a set takes a core when it uses up its steps, measured on a few steps."""
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
    fixed, some = timed(0), timed(steps)
    return fixed + max(some - fixed, 0) / max(steps, 1) * spec.synthesis.steps
