"""The trace of a data impression: the image at several steps of its optimisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zskd.core.device import use_threads
from zskd.core.errors import ZskdError
from zskd.core.precision import computing_in
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.inversion.lanes import LaneState
from zskd.synthesis.room import storage_of
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


def trace_impression(teacher: Classifier, spec: SetSpec, index: int, *, frames: int = 8) -> list[Frame]:
    """Optimise one data impression again and return its trace, from the start image to the stored image.

    The frames are denser in the first steps, where the image changes most. The whole shard is made again
    where `spec.needs_shard`.

    Args:
        teacher: used in evaluation mode; left as it is.
        spec: of the set that the impression belongs to, as it was made (`zskd.synthesis.room.as_made`).
        index: position of the image in the set, dropped images counted; if that image stays noise, the next
            optimised one is traced.
        frames: number of frames, at least 2; fewer are returned if there are fewer steps.

    Raises:
        ZskdError: no image of the set is optimised, or the method makes them in its own way.
    """
    if not spec.optimises:
        raise ZskdError("the images of this set are not optimised: give a set with optimised images to trace")
    if not spec.own_method.by_objective:
        raise ZskdError(
            f"images of --method {spec.method} take no steps towards a target: give a set of another method"
        )
    while not entry_of(teacher, spec, index).optimised:
        index += 1
    path: list[tuple[int, Tensor]] = []
    box, config = teacher.spec.box, spec.synthesis
    indices = [index]
    if spec.needs_shard:
        shard = spec.indices(index // spec.shard_size(teacher.classes), teacher.classes)
        indices = sorted({*shard, index})
    row = indices.index(index)
    with frozen(teacher), use_threads(1), torch.no_grad(), computing_in(config.precision):
        plan = plan_shard(teacher, spec, indices)
        number = plan.rows.tolist().index(row)  # among the images that are optimised

        def record(lanes: LaneState) -> None:
            for lane in (lanes.numbers == number).nonzero()[:, 0].tolist():
                path.append((int(lanes.steps[lane]), lanes.images[lane].clamp(*box).cpu()))

        images, steps = invert(teacher, plan.batch, config, spec.objective, on_step=record)
        stored = round_to(images[number][None], storage_of(config, teacher.spec.shape), box)[0]
        path.append((int(steps[number]), stored))
        last = len(path) - 1
        selected = [path[k] for k in sorted({round(last * (k / (frames - 1)) ** 2) for k in range(frames)})]
        stack = torch.stack([image for _, image in selected])
        target, anchor = plan.targets[row], plan.anchors[row]
        targets, anchors = target.expand(len(stack), -1), anchor.expand(len(stack))
        kl = label(teacher, stack, targets, anchors, torch.ones(len(stack)), config).kl
    return [Frame(step, image, target, float(k)) for (step, image), k in zip(selected, kl, strict=True)]
