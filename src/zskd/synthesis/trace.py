"""One impression at several moments of its optimisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zskd.core.device import use_threads
from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.inversion.lanes import LaneState
from zskd.synthesis.shard import entry_of, label, plan_shard
from zskd.synthesis.spec import SetSpec


@dataclass(frozen=True)
class Frame:
    """One moment in the making of an impression."""

    step: int
    image: Tensor
    target: Tensor
    kl: float


def trace_impression(teacher: Classifier, spec: SetSpec, index: int, *, frames: int = 8) -> list[Frame]:
    """Make one impression again and return it at several moments.

    Moments are closer together at the beginning, where most happens. Where images of a shard share something,
    all of it is made again.

    Args:
        teacher: asked in evaluation mode; left as it is.
        spec: of the set that the impression belongs to.
        index: of the image as it was made, dropped ones counted; one that stays noise is passed over for the
            next that does not.
        frames: how many moments, at least 2.

    Raises:
        ZskdError: the method optimises nothing.
    """
    if not spec.optimises:
        raise ZskdError("noise is not optimised: there is nothing to show")
    while not entry_of(teacher, spec, index).optimised:
        index += 1
    moments: list[tuple[int, Tensor]] = []
    box, config = teacher.spec.box, spec.synthesis
    indices = [index]
    if spec.couples or spec.chains:
        shard = spec.indices(index // spec.shard_size(teacher.classes), teacher.classes)
        indices = sorted({*shard, index})
    row = indices.index(index)
    with frozen(teacher), use_threads(1), torch.no_grad():
        plan = plan_shard(teacher, spec, indices)
        wanted = plan.rows.tolist().index(row)  # its number among the images that are optimised

        def note(moment: LaneState) -> None:
            for lane in (moment.numbers == wanted).nonzero()[:, 0].tolist():
                moments.append((int(moment.steps[lane]), moment.images[lane].clamp(*box).cpu()))

        made, steps = invert(teacher, plan.batch, config, spec.objective, on_step=note)
        moments.append((int(steps[wanted]), made[wanted]))
        last = len(moments) - 1
        chosen = sorted({round(last * (k / (frames - 1)) ** 2) for k in range(frames)})
        shown = [moments[k] for k in chosen]
        stack = torch.stack([image for _, image in shown])
        target, anchor = plan.targets[row], plan.anchors[row]
        targets, anchors = target.expand(len(stack), -1), anchor.expand(len(stack))
        kl = label(teacher, stack, targets, anchors, torch.ones(len(stack)), config).kl
    return [Frame(step, image, target, float(k)) for (step, image), k in zip(shown, kl, strict=True)]
