"""Making a transfer set, shard by shard.

The determinism contract: a shard's bytes are a function of the teacher's weights, its `SetSpec` and its
number, on one machine and set of versions. A worker uses one thread; a batch always has the same images,
because the last one of a set is filled up with those that a larger set would hold; every image owns
its random streams and its Adam state. Hence shards can be made anywhere, in any order, and a set of the
interleaved order is the beginning of every larger one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from zskd.inversion import Chain, draw_starts, draw_warps, invert
from zskd.methods import METHODS
from zskd.progress import Progress, Task, readable_bytes, readable_seconds
from zskd.targets import Place, place, row_size
from zskd.transfer_set import Shard, TransferSet, Writer

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

    @property
    def optimises(self) -> bool:
        """Whether any image is more than noise."""
        return self.method != "noise" and self.synthesis.noise_share < 1 and self.synthesis.steps > 0

    def shards(self, classes: int) -> int:
        """Number of shards."""
        return -(-self.count // self.shard_size(classes))


def read_spec(values: dict[str, Any]) -> SetSpec:
    """Return the spec that a manifest holds.

    Raises:
        ZskdError: it is damaged.
    """
    try:
        return TypeAdapter(SetSpec).validate_python(values)
    except ValidationError as error:
        raise ZskdError(f"the manifest's settings are damaged: {one_line(error)}") from error


def build_transfer_set(
    teacher: Classifier, spec: SetSpec, folder: Path, *, progress: Progress | None = None
) -> TransferSet:
    """Make the shards that are missing in `folder` and return the whole set.

    Args:
        teacher: frozen.
        spec: what to make.
        folder: of this set alone; whole shards of the same spec in it are kept.
        progress: told of every shard.

    Raises:
        ZskdError: the folder holds a set of another spec, the disk is too small, or a loss is not finite.
    """
    progress = progress or Progress()
    teacher.freeze()
    provenance = {
        "spec": asdict(spec),
        "teacher_sha256": teacher.fingerprint(),
        "resolved": {"threads": 1, "device": "cpu", "dtype": "float32", "layout": teacher.layout},
    }
    writer = Writer(folder, provenance, class_names=teacher.class_names, shape=teacher.spec.shape)
    if writer.complete:
        return TransferSet(folder)
    missing = (k for k in range(spec.shards(teacher.classes)) if k not in writer.done)
    _announce(teacher, spec, spec.shards(teacher.classes) - len(writer.done), folder, progress)
    size = spec.shard_size(teacher.classes)
    ready = sum(min(size, spec.count - k * size) for k in writer.done)
    with progress.task(f"synthesis ({spec.method})", spec.count, "images", done=ready) as task:
        for number in missing:
            writer.add(number, make_shard(teacher, spec, number, task=task))
    writer.finish()
    return TransferSet(folder)


def make_shard(teacher: Classifier, spec: SetSpec, number: int, *, task: Task | None = None) -> Shard:
    """Make one shard: a pure function of teacher, spec and number; `task` is told of every batch."""
    size = spec.shard_size(teacher.classes)
    first = number * size
    count = min(size, spec.count - first)
    chain = Chain()
    parts = []
    with _one_thread(), torch.no_grad():
        for start in range(0, count, spec.synthesis.batch_size):
            indices = list(range(first + start, first + start + spec.synthesis.batch_size))
            parts.append(_make_batch(teacher, spec, indices, chain)[: count - start])
            if task is not None:
                task.advance(len(parts[-1]), f"KL {float(parts[-1].kl.mean()):.4f}")
    return Shard.join(parts)


@dataclass(frozen=True)
class Frame:
    """One moment in the making of an impression."""

    step: int
    image: Tensor
    target: Tensor
    kl: float


def film(teacher: Classifier, spec: SetSpec, index: int, *, frames: int = 8) -> list[Frame]:
    """Make one impression again, in its own batch, and return it at several moments.

    Moments are closer together at the beginning, where most happens. Where batches go on from each other,
    the shard is made again from its first batch.

    Args:
        teacher: frozen.
        spec: of the set that the impression belongs to.
        index: of the image in the set; an image that stays noise is passed over for the next that does not.
        frames: how many moments, at least 2.

    Raises:
        ZskdError: the method optimises nothing.
    """
    if not spec.optimises:
        raise ZskdError("noise is not optimised: there is nothing to film")
    while not _place(teacher, spec, index).optimised:
        index += 1
    size, last = spec.synthesis.batch_size, spec.synthesis.steps
    shard = index // spec.shard_size(teacher.classes) * spec.shard_size(teacher.classes)
    first = shard + (index - shard) // size * size
    lane = sum(_place(teacher, spec, i).optimised for i in range(first, index))
    moments = {round(last * (k / (frames - 1)) ** 2) for k in range(frames)}
    seen: dict[int, Tensor] = {}

    def note(step: int, images: Tensor) -> None:
        if step in moments:
            seen[step] = images[lane].clamp(*teacher.spec.box).clone()

    with _one_thread(), torch.no_grad():
        chain = Chain()
        if spec.synthesis.carry_images or spec.synthesis.carry_moments:
            for start in range(shard, first, size):
                _make_batch(teacher, spec, list(range(start, start + size)), chain)
        batch = _make_batch(teacher, spec, list(range(first, first + size)), chain, note)
        target = batch.targets[index - first]
        images = torch.stack([seen[step] for step in sorted(seen)])
        answers = F.log_softmax(teacher(images) / spec.synthesis.tau, dim=1)
        kl = F.kl_div(answers, target.expand_as(answers), reduction="none").sum(1)
    return [Frame(step, seen[step], target, float(k)) for step, k in zip(sorted(seen), kl, strict=True)]


def _place(teacher: Classifier, spec: SetSpec, index: int) -> Place:
    share = spec.synthesis.noise_share
    return place(index, count=spec.count, classes=teacher.classes, config=spec.targets, noise_share=share)


def _make_batch(
    teacher: Classifier,
    spec: SetSpec,
    indices: list[int],
    chain: Chain,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Shard:
    config = spec.synthesis
    places = [_place(teacher, spec, index) for index in indices]
    owned = [spec.first_index + index for index in indices]
    wanted = METHODS[spec.method](teacher, places, owned, spec.seed, spec.targets)
    images = draw_starts(
        config.start, owned, seed=spec.seed, shape=teacher.spec.shape, box=teacher.spec.box
    ).clamp_(*(teacher.spec.box if config.pixels == "project" else (-torch.inf, torch.inf)))
    optimised = torch.tensor(wanted.optimised)
    targets = torch.from_numpy(wanted.targets)
    steps = torch.where(optimised, config.steps, 0).to(torch.int32)
    if bool(optimised.any()):
        moved = [index for index, chosen in zip(owned, wanted.optimised, strict=True) if chosen]
        warps = draw_warps(moved, config.steps, seed=spec.seed) if config.warp.moves else None
        images[optimised] = invert(
            teacher, images[optimised], targets[optimised], config, warps=warps, chain=chain, on_step=on_step
        )
    images.clamp_(*teacher.spec.box)
    return label(teacher, images, targets, torch.tensor([spot.anchor for spot in places]), steps, config.tau)


def label(
    teacher: Classifier,
    images: Tensor,
    targets: Tensor,
    anchors: Tensor,
    steps: Tensor,
    tau: float,
) -> Shard:
    """Ask the teacher about finished images and return them as a shard.

    Images of 0 steps were asked for nothing: the teacher's own answer becomes their target and its class
    their anchor.
    """
    logits = teacher(images)
    if not bool(torch.isfinite(logits).all()):
        raise ZskdError(
            "synthesis: the teacher's answer to a finished image is not finite: look at its mean and std, "
            "and at --synthesis.learning-rate"
        )
    untouched = steps == 0
    answers = F.softmax(logits / tau, dim=1)
    targets = torch.where(untouched[:, None], answers, targets)
    anchors = torch.where(untouched, logits.argmax(1), anchors)
    kl = F.kl_div(F.log_softmax(logits / tau, dim=1), targets, reduction="none").sum(1)
    return Shard(images=images, targets=targets, logits=logits, anchors=anchors, steps=steps, kl=kl)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _announce(teacher: Classifier, spec: SetSpec, shards: int, folder: Path, progress: Progress) -> None:
    """Say how long the missing shards will take and how much disk they need; refuse a disk too small.

    The time is measured on one batch of a few steps.
    """
    images = min(spec.count, shards * spec.shard_size(teacher.classes))
    need = images * Shard.bytes_per_image(teacher.spec.shape, teacher.classes)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise ZskdError(
            f"{images:,} images need {readable_bytes(need)} and {folder} has {readable_bytes(free)} free: "
            "make room, or lower --count"
        )
    seconds = images * _seconds_per_image(teacher, spec)
    progress.say(
        f"{spec.method}: {images:,} images of {spec.synthesis.steps if spec.method != 'noise' else 0} steps, "
        f"about {readable_seconds(seconds)}, {readable_bytes(need)} in {folder}"
    )


def _seconds_per_image(teacher: Classifier, spec: SetSpec) -> float:
    steps = min(3, spec.synthesis.steps)
    config = replace(spec.synthesis, steps=steps)
    indices = list(range(spec.synthesis.batch_size))

    def timed(count: int) -> float:
        probe = replace(spec, synthesis=replace(config, steps=count))
        started = time.perf_counter()
        with _one_thread(), torch.no_grad():
            _make_batch(teacher, probe, indices, Chain())
        return time.perf_counter() - started

    timed(steps)
    fixed, some = timed(0), timed(steps)
    per_step = max(some - fixed, 0) / max(steps, 1)
    total: float = (fixed + per_step * spec.synthesis.steps) / len(indices)
    return total
