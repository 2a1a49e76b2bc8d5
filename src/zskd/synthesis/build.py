"""Synthesis of a transfer set, shard by shard.

The determinism contract: a shard's bytes are a function of the teacher's weights, its `SetSpec` and its
number, on one machine and set of versions. A worker uses one thread; a batch always has the same size;
every image has its own random streams and Adam state. Hence shards can be made in any process and order,
and a set of the interleaved order is the beginning of every larger one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path

import torch

from zskd.config.trust import code_hashes
from zskd.core.device import use_threads, warn_if_slow
from zskd.core.engines.base import Engine
from zskd.core.engines.local import LocalEngine
from zskd.core.errors import ZskdError
from zskd.core.passes import counting, teacher_passes
from zskd.core.precision import computing_in
from zskd.core.progress import Progress, readable_bytes, readable_seconds
from zskd.models.classifier import Classifier
from zskd.models.factory import own_code
from zskd.models.modes import frozen
from zskd.synthesis.cost import Cost
from zskd.synthesis.outcome import outcome_of
from zskd.synthesis.room import check_disk, fit_workers, need_on, set_bytes, workers_bytes
from zskd.synthesis.settling import Settled, settle
from zskd.synthesis.shard import entry_of, label, make_shard, missed_target, plan_shard
from zskd.synthesis.sizes import fit_spec, resolve
from zskd.synthesis.spec import SetSpec, spec_values
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import Provenance, ShardEntry
from zskd.transfer_set.shard import write_shard
from zskd.transfer_set.writer import Writer


def build_transfer_set(
    teacher: Classifier,
    spec: SetSpec,
    folder: str | Path,
    *,
    workers: int = 1,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> TransferSet:
    """Make the shards that are missing in `folder` and return the whole set.

    Args:
        teacher: on the device that the images are optimised on; used in evaluation mode, left as it is.
        spec: method, count, seed and settings.
        folder: of this set alone; complete shards of the same spec in it are not made again.
        workers: processes that make shards in parallel, each with one thread; 0: one per core, or this
            process alone where the work is short; 1: this process alone. There are fewer where the memory is
            too small. A script that sets more needs `if __name__ == "__main__":`.
        engine: where these processes are; None: this machine.
        progress: reports every image.

    Raises:
        ZskdError: the teacher does not allow the method, the folder holds a set of another spec, disk or
            memory are too small, a loss is not finite, no image is left, or no process can take the teacher.
    """
    folder, progress, engine = Path(folder), progress or Progress(), engine or LocalEngine()
    with frozen(teacher):
        spec.own_method.check_teacher(teacher)
    settled = settle_spec(teacher, spec, folder, progress)
    writer, made = open_writer(teacher, spec, settled, folder), settled.spec
    if writer.complete:
        return TransferSet(folder)
    ready = sum(len(made.indices(k, teacher.classes)) for k in writer.done)
    images = spec.count - ready
    check_disk(teacher, made, images, folder)  # first: a list of all shards may be too long
    missing = [k for k in range(made.shards(teacher.classes)) if k not in writer.done]
    if missing:
        seconds = images * seconds_per_image(teacher, made)
        workers = fit_workers(teacher, made, workers, shards=len(missing), seconds=seconds, engine=engine)
        _announce(teacher, spec, made, images, seconds / workers, folder, workers, progress)
        with progress.task(f"synthesis ({spec.method})", spec.count, "images", done=ready) as task:
            shards = make_shards(
                teacher, made, folder, missing, workers=workers, engine=engine, on_progress=task.advance
            )
            for number, entry in shards:
                writer.add(number, entry)
    if not (left := sum(entry.count for entry in writer.done.values())):
        raise ZskdError(
            f"synthesis: none of the {spec.count:,} images met its target: raise --synthesis.steps or "
            "--synthesis.tolerance, or give --synthesis.missed keep, each in another folder"
        )
    writer.finish(dropped=spec.count - left)
    transfer_set = TransferSet(folder)
    outcome = outcome_of(transfer_set)
    if outcome.all_missed:
        progress.log(
            f"warning: all {outcome.optimised:,} optimised images missed their target: raise "
            "--synthesis.steps or --synthesis.tolerance, or look at the teacher with zskd inspect"
        )
    progress.detail(
        f"{spec.method}: {outcome.words}; {teacher_passes(transfer_set.manifest.passes or {}):,} passes"
    )
    return transfer_set


def settle_spec(teacher: Classifier, spec: SetSpec, folder: Path, progress: Progress) -> Settled:
    """Return how a set is made: as `fit_spec` and `settle` say.

    Args:
        teacher: as for `build_transfer_set`.
        spec: what was asked for.
        folder: of the set.
        progress: as for `settle`.

    Raises:
        ZskdError: as for both.
    """
    return settle(teacher, fit_spec(teacher, spec, folder), progress)


def open_writer(teacher: Classifier, spec: SetSpec, settled: Settled, folder: Path) -> Writer:
    """Return the writer of a set's manifest.

    Args:
        teacher: that the set is made with.
        spec: of the set, as it was asked for.
        settled: from `settle_spec`.
        folder: of this set alone.

    Raises:
        ZskdError: the folder holds a set of another spec.
    """
    resolved = resolve(teacher, spec, settled.spec)
    provenance = Provenance(spec=spec_values(spec), teacher_sha256=teacher.fingerprint(), resolved=resolved)
    own = hashes_of(spec)
    if of_teacher := own_code(teacher.architecture):
        own["code"] = own.get("code", {}) | of_teacher
    provenance = provenance.model_copy(update=own)
    return Writer(
        folder,
        provenance,
        class_names=teacher.class_names,
        shape=teacher.spec.shape,
        asked=settled.asked,
    )


def hashes_of(spec: SetSpec) -> dict[str, dict[str, str | None]]:
    """Return the hashes of what a set depends on beside its spec and its teacher; empty where that is all.

    Another version of the user's own code (`code`), or of what the method reads (`files`), makes another set.

    Raises:
        ZskdError: code or file are missing.
    """
    code = code_hashes({"method": spec.method, "start": spec.synthesis.start})
    found: dict[str, dict[str, str | None]] = {"code": code, "files": dict(spec.own_method.files())}
    return {kind: hashes for kind, hashes in found.items() if hashes}


def make_shards(
    teacher: Classifier,
    spec: SetSpec,
    folder: Path,
    numbers: Sequence[int],
    *,
    workers: int,
    engine: Engine,
    on_progress: Callable[[int], None],
) -> Iterator[tuple[int, ShardEntry]]:
    """Write some shards of a set and yield number and manifest entry of each; the manifest is not written.

    Args:
        teacher: as for `build_transfer_set`.
        spec: of the set, from `fit_spec`.
        folder: of the set.
        numbers: of the shards.
        workers: processes.
        engine: where they are.
        on_progress: called with numbers of finished images.

    Raises:
        ZskdError: a loss is not finite, or the teacher cannot be sent to another process.
    """
    shared, need = (teacher, spec, folder), need_on(engine, teacher, spec)
    return engine.each_done(_write_one, shared, numbers, workers=workers, need=need, on_progress=on_progress)


def time_shards(
    teacher: Classifier, spec: SetSpec, folder: Path, numbers: Sequence[int], *, engine: Engine
) -> dict[int, tuple[float, ShardEntry]]:
    """Make some shards at the same time, and return the seconds and the manifest entry of each.

    The seconds are those of the shard alone, without what its process takes to start.

    Args:
        teacher: as for `make_shards`.
        spec: as there.
        folder: as there.
        numbers: of the shards.
        engine: as there.

    Raises:
        ZskdError: as there.
    """
    shared, need = (teacher, spec, folder), need_on(engine, teacher, spec)
    return dict(
        engine.each_done(
            _time_one, shared, numbers, workers=len(numbers), need=need, on_progress=lambda _: None
        )
    )


def _time_one(
    shared: tuple[Classifier, SetSpec, Path], number: int, on_progress: Callable[[int], None]
) -> tuple[float, ShardEntry]:
    started = time.perf_counter()
    entry = _write_one(shared, number, on_progress)
    return time.perf_counter() - started, entry


def _write_one(
    shared: tuple[Classifier, SetSpec, Path], number: int, on_progress: Callable[[int], None]
) -> ShardEntry:
    """Make one shard and write it, in a worker."""
    teacher, spec, folder = shared
    with counting(teacher=teacher) as tally:
        shard = make_shard(teacher, spec, number, on_progress=on_progress)
    dropped = len(spec.indices(number, teacher.classes)) - len(shard)
    missed = int(missed_target(shard, spec.synthesis).sum()) + dropped
    storage = spec.storage(teacher.spec.shape)
    return write_shard(folder, number, shard, missed=missed, storage=storage, passes=tally.passes())


def _announce(
    teacher: Classifier,
    spec: SetSpec,
    made: SetSpec,
    images: int,
    seconds: float,
    folder: Path,
    workers: int,
    progress: Progress,
) -> None:
    """Log the longest time that the missing images may take, the space they need, and how they are made.

    The time is measured on a few steps, and holds if every image uses all its steps.
    """
    need, steps = set_bytes(teacher, made, images), made.synthesis.steps if made.optimises else 0
    progress.log(
        f"{spec.method}: {images:,} images of {steps} steps at most, "
        f"{readable_seconds(seconds)} at most, {readable_bytes(need)} in {folder}"
    )
    if spec.count < teacher.classes:
        progress.log(
            f"warning: {spec.count:,} images for {teacher.classes:,} classes, so that some classes have "
            "none: raise --count"
        )
    warn_if_slow(spec.method, spec.synthesis.precision, teacher.device, progress)
    resolved = resolve(teacher, spec, made)
    if resolved.batch_size is not None and made.optimises:
        progress.log(
            f"{spec.method}: {resolved.batch_size} images are optimised together instead of "
            f"{spec.synthesis.batch_size}, because of their size and the memory"
        )
    how = ", ".join(f"{key} {value}" for key, value in teacher.how_run().items())
    memory = workers_bytes(teacher, made, workers) / 1e6
    progress.detail(
        f"{spec.method}: {workers} workers of 1 thread on {teacher.device}, about {memory:,.0f} MB of "
        f"memory; teacher: {how}"
    )


def seconds_per_image(
    teacher: Classifier, spec: SetSpec, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the mean core seconds of an image of a set; the arguments are those of `image_seconds`."""
    return image_seconds(teacher, spec, clock).of(spec, teacher.classes)


def image_seconds(teacher: Classifier, spec: SetSpec, clock: Callable[[], float] = time.perf_counter) -> Cost:
    """Return the core seconds of images that use all their steps, estimated from a few of the first shard.

    Args:
        teacher: as for `build_transfer_set`.
        spec: from `fit_spec`.
        clock: returns seconds since any fixed moment.
    """
    indices, config = spec.indices(0, teacher.classes), spec.synthesis
    optimised = [i for i in indices if spec.optimises and entry_of(teacher, spec, i).optimised]
    few = indices[: config.batch_size]
    _time_images(teacher, spec, few, clock)
    of_image = _time_images(teacher, spec, few, clock)
    if not optimised:
        return Cost(of_image, 0.0)
    batch = optimised[: config.batch_size]
    _time_step(teacher, spec, batch, 1, clock)
    # a batch has the same size, however few images are in it
    of_batch = config.steps * _time_step(teacher, spec, batch, min(3, config.steps), clock)
    return Cost(of_image, ceil(len(optimised) / config.batch_size) * of_batch / len(optimised))


def _time_images(
    teacher: Classifier, spec: SetSpec, indices: Sequence[int], clock: Callable[[], float]
) -> float:
    """Return the seconds of each image of a shard without its optimisation."""
    started = clock()
    with frozen(teacher), use_threads(1), torch.no_grad():
        plan = plan_shard(teacher, spec, indices)
        no_steps = torch.zeros(len(indices), dtype=torch.int32)
        label(teacher, plan.starts, plan.targets, plan.anchors, no_steps, spec.synthesis)
    return (clock() - started) / len(indices)


def _time_step(
    teacher: Classifier, spec: SetSpec, indices: Sequence[int], steps: int, clock: Callable[[], float]
) -> float:
    """Return the seconds of each step of a batch."""
    part = replace(spec, synthesis=replace(spec.synthesis, tolerance=0.0, missed="keep", steps=steps))
    with frozen(teacher), use_threads(1), torch.no_grad(), computing_in(part.synthesis.precision):
        plan = plan_shard(teacher, part, indices)
        started = clock()
        part.own_method.make(teacher, plan.entries, plan.batch, part.synthesis)
    return (clock() - started) / steps
