"""The trace of a data impression: the image at several steps of its optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from zskd.config.synthesis import SynthesisConfig
from zskd.core.device import use_threads
from zskd.core.errors import ZskdError
from zskd.core.precision import computing_in
from zskd.core.progress import Progress
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.inversion.lanes import LaneState
from zskd.synthesis.shard import entry_of, label, plan_shard
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.storage import round_to


@dataclass(frozen=True)
class Frame:
    """A data impression at one step of its optimisation."""

    step: int
    """Steps taken so far."""
    image: Tensor
    """(C, H, W), inside the input box."""
    target: Tensor
    """y (K,)."""
    kl: float
    """KL(y ‖ softmax(T(x)/τ)) in nats."""


def trace_impression(
    teacher: Classifier, spec: SetSpec, index: int, *, frames: int = 8, progress: Progress | None = None
) -> list[Frame]:
    """Optimise one data impression again and return its trace, from the start image to the stored image.

    Args:
        teacher: as for `trace_impressions`.
        spec: as there.
        index: position of the image in the set, dropped images counted; if that image stays noise, the next
            optimised one is traced, or the first where there is no next one.
        frames: number of frames, at least 2; fewer are returned if there are fewer steps.
        progress: as there.

    Raises:
        ZskdError: as there, or no image of the set is optimised.
    """
    _check(spec, [index], frames)
    found = (
        each
        for each in chain(range(index, spec.count), range(index))
        if entry_of(teacher, spec, each).optimised
    )
    if (traced := next(found, None)) is None:
        raise ZskdError(
            f"none of the {spec.count:,} images of this set is optimised: give a larger set to trace"
        )
    return trace_impressions(teacher, spec, [traced], frames=frames, progress=progress)[traced]


def trace_impressions(
    teacher: Classifier,
    spec: SetSpec,
    indices: Sequence[int],
    *,
    frames: int = 8,
    progress: Progress | None = None,
) -> dict[int, list[Frame]]:
    """Optimise some data impressions again and return their traces, from start image to stored image.

    The frames are denser in the first steps, where the image changes most. Where images depend on their
    batch, it is made again. All steps of the images that are asked for are in memory at once.

    Args:
        teacher: used in evaluation mode; left as it is.
        spec: of the set that the impressions belong to, as it was made: of a stored set
            `made_spec(transfer_set.manifest)`.
        indices: positions of images of one shard in the set, dropped images counted; those that stay noise
            have no trace.
        frames: number of frames, at least 2; fewer are returned if there are fewer steps.
        progress: reports the images that are made.

    Returns:
        Traces by index.

    Raises:
        ZskdError: the set's images are not optimised, the method makes them in its own way, the spec leaves
            something to ask the teacher, an index is not in the set, or there are fewer than 2 frames.
    """
    _check(spec, indices, frames)
    wanted = [index for index in indices if entry_of(teacher, spec, index).optimised]
    if not wanted:
        return {}
    planned = sorted(wanted)
    if spec.needs_shard:
        size = spec.shard_size(teacher.classes)
        planned = sorted({*spec.indices(wanted[0] // size, teacher.classes), *wanted})
    rows = {index: planned.index(index) for index in wanted}
    paths: dict[int, list[tuple[int, Tensor]]] = {row: [] for row in rows.values()}
    box, config = teacher.spec.box, spec.synthesis
    with frozen(teacher), use_threads(1), torch.no_grad(), computing_in(config.precision):
        plan = plan_shard(teacher, spec, planned)
        optimised = plan.rows.tolist()
        made = _made_again(
            spec, [number for number, row in enumerate(optimised) if row in paths], len(optimised)
        )
        row_of = {place: optimised[number] for place, number in enumerate(made) if optimised[number] in paths}

        def record(lanes: LaneState) -> None:
            for lane, place in enumerate(lanes.numbers.tolist()):
                if place in row_of:
                    image = lanes.images[lane].clamp(*box).cpu()
                    paths[row_of[place]].append((int(lanes.steps[lane]), image))

        with (progress or Progress()).task("filmstrip", len(made), "images") as task:
            images, steps = invert(
                teacher,
                plan.batch.only(made),
                config,
                spec.objective,
                on_step=record,
                on_progress=task.advance,
            )
        for place, row in row_of.items():
            stored = round_to(images[place][None], spec.storage(teacher.spec.shape), box)[0]
            paths[row].append((int(steps[place]), stored))
        return {
            index: _frames(teacher, config, paths[row], plan.targets[row], plan.anchors[row], frames)
            for index, row in rows.items()
        }


def _made_again(spec: SetSpec, followed: Sequence[int], count: int) -> Sequence[int]:
    """Return which of `count` images of a shard must be made for those that are followed, rising."""
    if not (spec.couples or spec.chains):
        return followed
    lanes = spec.synthesis.batch_size
    first = 0 if spec.chains else followed[0] // lanes * lanes
    return range(first, min((followed[-1] // lanes + 1) * lanes, count))


def _check(spec: SetSpec, indices: Sequence[int], frames: int) -> None:
    if not spec.optimises:
        raise ZskdError("the images of this set are not optimised: give a set with optimised images to trace")
    if not spec.own_method.by_objective:
        raise ZskdError(
            f"images of --method {spec.method} take no steps towards a target: give a set of another method"
        )
    if spec.searches_rate or spec.asks_about_flips:
        raise ZskdError(
            "this spec leaves the learning rate or flips to the teacher's answers: give that of the finished "
            "set, made_spec(transfer_set.manifest)"
        )
    for index in indices:
        if not 0 <= index < spec.count:
            raise ZskdError(f"index is {index}: {spec.count} images were made, from 0 to {spec.count - 1}")
    if frames < 2:
        raise ZskdError(f"frames is {frames}: give at least 2")


def _frames(
    teacher: Classifier,
    config: SynthesisConfig,
    path: Sequence[tuple[int, Tensor]],
    target: Tensor,
    anchor: Tensor,
    count: int,
) -> list[Frame]:
    """Choose some images of a path, and let the teacher answer."""
    last = len(path) - 1
    selected = [path[k] for k in sorted({round(last * (k / (count - 1)) ** 2) for k in range(count)})]
    stack = torch.stack([image for _, image in selected])
    targets, anchors = target.expand(len(stack), -1), anchor.expand(len(stack))
    kl = label(teacher, stack, targets, anchors, torch.ones(len(stack)), config).kl
    return [Frame(step, image, target, float(k)) for (step, image), k in zip(selected, kl, strict=True)]
