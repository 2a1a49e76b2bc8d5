"""What a transfer set costs: one of its shards is made, or a few steps of some images where that is long."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zskd.core.engines.base import Engine
from zskd.core.engines.local import LocalEngine
from zskd.core.progress import Progress
from zskd.models.classifier import Classifier
from zskd.run.passes import set_passes
from zskd.run.shares import least_count
from zskd.synthesis.build import image_seconds, make_shards, settle_spec
from zskd.synthesis.cost import Cost
from zskd.synthesis.room import fit_workers, need_on, shard_need
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.manifest import ShardEntry

_FEW_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What a set costs."""

    spec: SetSpec
    """That it is made with."""
    serial: float
    """Seconds before the first shard."""
    alone: tuple[float, ...]
    """Seconds of each shard, while no other is made."""
    busy: tuple[float, ...]
    """Seconds of each shard, while all workers make one."""
    passes: int
    """Of the teacher, forward and backward."""
    memory: int
    """Bytes that a worker needs."""
    at_most: bool
    """Whether no shard was made: seconds and passes are then those of images that take all their steps."""


def sample_set(
    teacher: Classifier, spec: SetSpec, folder: Path, *, seconds: float, workers: int, engine: Engine
) -> Sampled:
    """Make a shard of a set with one worker, and as many as there are workers, and return what the set costs.

    Args:
        teacher: frozen.
        spec: of the set.
        folder: for temporary files.
        seconds: that a shard may take; otherwise one of a smaller set is made, or images of a few steps.
        workers: that are busy at the same time; fewer where the memory is too small.
        engine: where they are.

    Raises:
        ZskdError: as for `build_transfer_set`.
    """
    started = time.perf_counter()
    settled = settle_spec(teacher, spec, folder, Progress())
    made, classes = settled.spec, teacher.classes
    cost = image_seconds(teacher, made)
    serial = time.perf_counter() - started
    workers = fit_workers(teacher, made, workers, shards=workers, seconds=math.inf, engine=engine)
    smaller = replace(made, count=least_count(made, classes))
    firsts = [(one, one.indices(0, classes)) for one in (made, smaller)]
    fits = [one for one, first in firsts if cost.of(one, classes, first) * len(first) <= seconds]
    sample = fits[0] if fits else few_steps(made, classes)
    alone, entry = _shard_seconds(teacher, sample, folder, 1, engine)
    busy = _shard_seconds(teacher, sample, folder, workers, engine)[0] if workers > 1 else alone
    of_image = (_measured(cost, alone, sample, classes) if fits else cost).of(made, classes)
    sizes = [len(made.indices(number, classes)) for number in range(made.shards(classes))]
    durations = tuple(of_image * size for size in sizes)
    if fits:
        counted = sum(one.teacher for one in (entry.passes or {}).values())
        asked = sum(one.teacher for one in (settled.asked or {}).values())
        each = _measured(_passes_of_image(sample, entry, classes), counted, sample, classes)
        of_image = each.of(made, classes)
        passes = asked + sum(round(of_image * size) for size in sizes)
    else:
        passes = set_passes(teacher, spec)
    return Sampled(
        spec=made,
        serial=serial,
        alone=durations,
        busy=tuple(one * busy / alone for one in durations),
        passes=passes,
        memory=shard_need(teacher, made).memory,
        at_most=not fits,
    )


def _measured(cost: Cost, total: float, sample: SetSpec, classes: int) -> Cost:
    """Return the cost of images, where those of the first shard of a sample took so much."""
    first = sample.indices(0, classes)
    return cost.measured(total, len(first), sample.planned(first, classes))


def _passes_of_image(spec: SetSpec, entry: ShardEntry, classes: int) -> Cost:
    """Return the passes of an image for labels and candidates, and whether there are any for steps."""
    labels = sum(one.teacher for stage, one in (entry.passes or {}).items() if stage == "labelling")
    candidates = spec.synthesis.candidates if spec.synthesis.candidates > 1 else 0
    plain = labels * (1 + candidates / spec.own_method.images_per_start)
    return Cost(plain / len(spec.indices(0, classes)), float(spec.optimises))


def few_steps(spec: SetSpec, classes: int, *, count: int | None = None) -> SetSpec:
    """Return the spec of a set whose images take a few steps.

    Args:
        spec: of a set.
        classes: number K of the teacher's classes.
        count: of images; None: about 300.
    """
    steps = min(_FEW_STEPS, spec.synthesis.steps)
    synthesis = replace(spec.synthesis, steps=steps, tolerance=0.0, missed="keep")
    return replace(spec, count=count or least_count(spec, classes), synthesis=synthesis)


def _shard_seconds(
    teacher: Classifier, spec: SetSpec, folder: Path, workers: int, engine: Engine
) -> tuple[float, ShardEntry]:
    """Make the first shard as often as there are workers, all at the same time; return its mean duration."""
    need = need_on(engine, teacher, spec)
    work = (teacher, spec, folder / str(workers))
    done = engine.each_done(
        _timed_shard, work, range(workers), workers=workers, need=need, on_progress=lambda _: None
    )
    found = [one for _, one in done]
    return sum(seconds for seconds, _ in found) / workers, found[0][1]


def _timed_shard(
    shared: tuple[Classifier, SetSpec, Path], number: int, on_progress: Callable[[int], None]
) -> tuple[float, ShardEntry]:
    """Make the first shard in a folder of this worker; return its seconds and its entry."""
    teacher, spec, folder = shared
    first: Sequence[int] = (0,)
    image_seconds(teacher, spec)  # the first steps of a process are slow
    started = time.perf_counter()
    ((_, entry),) = make_shards(
        teacher,
        spec,
        folder / str(number),
        first,
        workers=1,
        engine=LocalEngine(),
        on_progress=on_progress,
    )
    return time.perf_counter() - started, entry
