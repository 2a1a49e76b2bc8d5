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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from zskd.classifier import Classifier
from zskd.config import Synthesis, Targets
from zskd.errors import ZskdError, one_line
from zskd.inversion import Moment, Work, draw_starts, draw_warps, invert
from zskd.machine import keep_freed_memory, usable_cores, use_threads
from zskd.methods import METHODS
from zskd.progress import Progress, readable_bytes, readable_seconds
from zskd.targets import Place, place, row_size
from zskd.transfer_set import REAL, Shard, ShardEntry, TransferSet, Writer, write_shard
from zskd.workers import each_done

HELD_OUT = 1 << 40
"""First index of images that no transfer set for training ever holds."""


@dataclass(frozen=True, kw_only=True)
class SetSpec:
    """All that determines a transfer set, together with the teacher."""

    method: str = "zskd"
    """A key of `METHODS`."""
    count: int
    """Number of images."""
    seed: int = 0
    """Run seed."""
    first_index: int = 0
    """Index of the first image: `HELD_OUT` for a set to measure on."""
    targets: Targets = field(default_factory=Targets)
    """Settings of the targets."""
    synthesis: Synthesis = field(default_factory=Synthesis)
    """Settings of the synthesis."""

    def __post_init__(self) -> None:
        """Refuse an empty set and an unknown method."""
        if self.count < 1:
            raise ZskdError(f"a transfer set needs at least one image, not {self.count}")
        if self.method not in METHODS:
            raise ZskdError(f"unknown method {self.method!r}: choose one of {', '.join(METHODS)}")

    def shard_size(self, classes: int) -> int:
        """Images per shard: the setting, or one row in the order of rows.

        Raises:
            ZskdError: the rows would not be equal.
        """
        if self.targets.order == "rows":
            rows = classes * len(self.targets.betas)
            if self.count % rows:
                raise ZskdError(
                    f"--targets.order rows wants as many images of each class and β: give --count a multiple "
                    f"of {rows}, not {self.count}"
                )
            return row_size(self.count, classes, self.targets)
        return self.synthesis.shard_size

    def indices(self, number: int, classes: int) -> range:
        """Indices of the images that a shard is made of, before any is dropped."""
        first = number * self.shard_size(classes)
        return range(first, min(first + self.shard_size(classes), self.count))

    @property
    def optimises(self) -> bool:
        """Whether any image is more than noise."""
        return self.method != "noise" and self.synthesis.noise_share < 1 and self.synthesis.steps > 0

    @property
    def nests(self) -> bool:
        """Whether its first images are what a smaller set of the same settings would be.

        Not where the place of an image hangs on the count, images of a batch share something, or some are
        dropped.
        """
        config = self.synthesis
        return self.targets.order == "interleaved" and config.pixels != "minmax" and config.missed == "keep"

    def shards(self, classes: int) -> int:
        """Number of shards."""
        return -(-self.count // self.shard_size(classes))


def read_spec(values: dict[str, Any]) -> SetSpec:
    """Return the spec that a manifest holds.

    Raises:
        ZskdError: it is damaged.
    """
    if values.get("method") == REAL:
        raise ZskdError("these are real images, which nothing has optimised: there is nothing to make again")
    try:
        return TypeAdapter(SetSpec).validate_python(values)
    except ValidationError as error:
        raise ZskdError(f"the manifest's settings are damaged: {one_line(error)}") from error


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
        teacher: frozen; on the device that is to do the work.
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
            made = make_shards(teacher, spec, folder, missing, workers=workers, tell=task.advance)
            for number, entry in made:
                writer.add(number, entry)
    writer.finish(_outcome(spec, writer))
    return TransferSet(folder)


def open_writer(teacher: Classifier, spec: SetSpec, folder: Path) -> Writer:
    """Return what lists the shards of a set.

    Raises:
        ZskdError: the folder holds a set of another spec.
    """
    teacher.freeze()
    resolved = {"threads": 1, "device": teacher.device.type, "dtype": "float32", **teacher.how_run()}
    provenance = {"spec": asdict(spec), "teacher_sha256": teacher.fingerprint(), "resolved": resolved}
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
    tell: Callable[[int], None],
) -> Iterator[tuple[int, ShardEntry]]:
    """Write some shards of a set and give what a manifest says of each; none is listed yet."""
    return each_done(_write_one, (teacher, spec, folder), numbers, workers=workers, tell=tell)


def make_shard(
    teacher: Classifier, spec: SetSpec, number: int, *, tell: Callable[[int], None] | None = None
) -> Shard:
    """Make one shard: a pure function of teacher, spec and number; `tell` is told of images made.

    Raises:
        ZskdError: a loss is not finite, or none of its images is kept.
    """
    indices = spec.indices(number, teacher.classes)
    keep_freed_memory()
    with use_threads(1), torch.no_grad():
        plan = _plan(teacher, spec, list(indices))
        images = plan.starts.clone()
        steps = torch.zeros(len(images), dtype=torch.int32)
        if len(plan.moved):
            images[plan.moved], steps[plan.moved] = invert(teacher, plan.work, spec.synthesis, tell=tell)
        if tell is not None:
            tell(len(images) - len(plan.moved))
        shard = label(teacher, images, plan.targets, plan.anchors, steps, spec.synthesis)
    if spec.synthesis.missed == "keep":
        return shard
    kept = shard.select(~_missed(shard, spec.synthesis))
    if not len(kept):
        raise ZskdError(
            f"synthesis: none of the {len(shard)} images of shard {number} met its target: raise "
            "--synthesis.steps or --synthesis.tolerance, or give --synthesis.missed keep"
        )
    return kept


def _write_one(
    shared: tuple[Classifier, SetSpec, Path], number: int, tell: Callable[[int], None]
) -> ShardEntry:
    """Make one shard and write it; the work of one worker."""
    teacher, spec, folder = shared
    shard = make_shard(teacher, spec, number, tell=tell)
    dropped = len(spec.indices(number, teacher.classes)) - len(shard)
    return write_shard(folder, number, shard, missed=int(_missed(shard, spec.synthesis).sum()) + dropped)


def _missed(shard: Shard, config: Synthesis) -> Tensor:
    """Which images used up their steps without meeting their target (N,)."""
    used_up = (shard.steps >= config.steps) & (shard.steps > 0)
    return used_up & (shard.kl >= (config.tolerance or torch.inf))


@dataclass(frozen=True)
class Frame:
    """One moment in the making of an impression."""

    step: int
    image: Tensor
    target: Tensor
    kl: float


def film(teacher: Classifier, spec: SetSpec, index: int, *, frames: int = 8) -> list[Frame]:
    """Make one impression again and return it at several moments.

    Moments are closer together at the beginning, where most happens. Where images of a shard share something,
    all of it is made again.

    Args:
        teacher: frozen.
        spec: of the set that the impression belongs to.
        index: of the image as it was made, dropped ones counted; one that stays noise is passed over for the
            next that does not.
        frames: how many moments, at least 2.

    Raises:
        ZskdError: the method optimises nothing.
    """
    if not spec.optimises:
        raise ZskdError("noise is not optimised: there is nothing to film")
    while not _place(teacher, spec, index).optimised:
        index += 1
    moments: list[tuple[int, Tensor]] = []
    box, config = teacher.spec.box, spec.synthesis
    indices = [index]
    if config.carry_images or config.carry_moments or config.pixels == "minmax":
        shard = spec.indices(index // spec.shard_size(teacher.classes), teacher.classes)
        indices = sorted({*shard, index})
    row = indices.index(index)
    with use_threads(1), torch.no_grad():
        plan = _plan(teacher, spec, indices)
        wanted = plan.moved.tolist().index(row)  # its number among the images that are optimised

        def note(moment: Moment) -> None:
            for lane in (moment.numbers == wanted).nonzero()[:, 0].tolist():
                moments.append((int(moment.steps[lane]), moment.images[lane].clamp(*box).cpu()))

        made, steps = invert(teacher, plan.work, config, on_step=note)
        moments.append((int(steps[wanted]), made[wanted]))
        last = len(moments) - 1
        chosen = sorted({round(last * (k / (frames - 1)) ** 2) for k in range(frames)})
        shown = [moments[k] for k in chosen]
        stack = torch.stack([image for _, image in shown])
        target, anchor = plan.targets[row], plan.anchors[row]
        targets, anchors = target.expand(len(stack), -1), anchor.expand(len(stack))
        kl = label(teacher, stack, targets, anchors, torch.ones(len(stack)), config).kl
    return [Frame(step, image, target, float(k)) for (step, image), k in zip(shown, kl, strict=True)]


@dataclass(frozen=True)
class _Plan:
    """What is known of some images before any is optimised."""

    starts: Tensor
    targets: Tensor
    anchors: Tensor
    moved: Tensor
    """Rows of the images that are optimised."""
    work: Work


def _plan(teacher: Classifier, spec: SetSpec, indices: list[int]) -> _Plan:
    config = spec.synthesis
    places = [_place(teacher, spec, index) for index in indices]
    owned = [spec.first_index + index for index in indices]
    wanted = METHODS[spec.method](teacher, places, owned, spec.seed, spec.targets)
    starts = draw_starts(config.start, owned, seed=spec.seed, shape=teacher.spec.shape, box=teacher.spec.box)
    if config.pixels == "project":
        starts.clamp_(*teacher.spec.box)
    moved = (
        torch.tensor(wanted.optimised).nonzero()[:, 0] if config.steps else torch.empty(0, dtype=torch.int64)
    )
    targets = torch.from_numpy(wanted.targets)
    warps = None
    if config.warp.moves and len(moved):
        warps = draw_warps([owned[row] for row in moved.tolist()], config.steps, seed=spec.seed)
    return _Plan(
        starts=starts,
        targets=targets,
        anchors=torch.tensor([spot.anchor for spot in places]),
        moved=moved,
        work=Work(starts[moved], targets[moved], warps),
    )


def _place(teacher: Classifier, spec: SetSpec, index: int) -> Place:
    share = spec.synthesis.noise_share
    return place(index, count=spec.count, classes=teacher.classes, config=spec.targets, noise_share=share)


def label(
    teacher: Classifier, images: Tensor, targets: Tensor, anchors: Tensor, steps: Tensor, config: Synthesis
) -> Shard:
    """Ask the teacher about finished images and return them as a shard.

    Images of 0 steps were asked for nothing: the teacher's own answer becomes their target and its class
    their anchor.
    """
    images = images.clamp(*teacher.spec.box)
    logits = _answers(teacher, images, config.batch_size)
    if not bool(torch.isfinite(logits).all()):
        raise ZskdError(
            "synthesis: the teacher's answer to a finished image is not finite: look at its mean and std, "
            "and at --synthesis.learning-rate"
        )
    untouched = steps == 0
    answers = F.softmax(logits / config.tau, dim=1)
    targets = torch.where(untouched[:, None], answers, targets)
    anchors = torch.where(untouched, logits.argmax(1), anchors)
    kl = F.kl_div(F.log_softmax(logits / config.tau, dim=1), targets, reduction="none").sum(1)
    return Shard(images=images, targets=targets, logits=logits, anchors=anchors, steps=steps, kl=kl)


def _answers(teacher: Classifier, images: Tensor, batch: int) -> Tensor:
    """Return logits, asked for in batches of one size: bits of an answer depend on the size alone."""
    parts = []
    for some in torch.split(images, batch):
        whole = F.pad(some, (0, 0) * 3 + (0, batch - len(some)))
        parts.append(teacher(whole.to(teacher.device))[: len(some)].cpu())
    return torch.cat(parts)


def _outcome(spec: SetSpec, writer: Writer) -> dict[str, Any]:
    """What became of the whole set, for its manifest."""
    total = sum(entry["count"] for entry in writer.done.values())
    missed = sum(entry["missed"] for entry in writer.done.values())
    return {"missed": missed, "dropped": spec.count - total}


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
    progress.say(
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
        with use_threads(1), torch.no_grad():
            plan = _plan(teacher, config, list(range(2 * lanes)))
            if len(plan.moved):
                invert(teacher, plan.work, config.synthesis)
        return (time.perf_counter() - started) / (2 * lanes)

    timed(steps)
    fixed, some = timed(0), timed(steps)
    return fixed + max(some - fixed, 0) / max(steps, 1) * spec.synthesis.steps
