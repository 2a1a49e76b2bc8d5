"""One shard: plan, optimise, label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.config.synthesis import SynthesisConfig
from zskd.core.device import keep_freed_memory, use_threads
from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.synthesis.inversion.initial import draw_initial, draw_warps
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.inversion.lanes import InversionBatch
from zskd.synthesis.methods.registry import METHODS
from zskd.synthesis.plan import PlanEntry, place
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.shard import Shard


def make_shard(
    teacher: Classifier, spec: SetSpec, number: int, *, tell: Callable[[int], None] | None = None
) -> Shard:
    """Make one shard: a pure function of teacher, spec and number; `tell` is told of images made.

    The teacher is asked in evaluation mode and left as it is.

    Raises:
        ZskdError: a loss is not finite, or none of its images is kept.
    """
    indices = spec.indices(number, teacher.classes)
    keep_freed_memory()
    with frozen(teacher), use_threads(1), torch.no_grad():
        plan = plan_shard(teacher, spec, list(indices))
        images = plan.starts.clone()
        steps = torch.zeros(len(images), dtype=torch.int32)
        if len(plan.moved):
            images[plan.moved], steps[plan.moved] = invert(teacher, plan.work, spec.synthesis, tell=tell)
        if tell is not None:
            tell(len(images) - len(plan.moved))
        shard = label(teacher, images, plan.targets, plan.anchors, steps, spec.synthesis)
    if spec.synthesis.missed == "keep":
        return shard
    kept = shard.select(~missed_target(shard, spec.synthesis))
    if not len(kept):
        raise ZskdError(
            f"synthesis: none of the {len(shard)} images of shard {number} met its target: raise "
            "--synthesis.steps or --synthesis.tolerance, or give --synthesis.missed keep"
        )
    return kept


def missed_target(shard: Shard, config: SynthesisConfig) -> Tensor:
    """Which images used up their steps without meeting their target (N,)."""
    used_up = (shard.steps >= config.steps) & (shard.steps > 0)
    return used_up & (shard.kl >= (config.tolerance or torch.inf))


@dataclass(frozen=True)
class ShardPlan:
    """What is known of some images before any is optimised."""

    starts: Tensor
    targets: Tensor
    anchors: Tensor
    moved: Tensor
    """Rows of the images that are optimised."""
    work: InversionBatch


def plan_shard(teacher: Classifier, spec: SetSpec, indices: list[int]) -> ShardPlan:
    """Return what is known of some images before any is optimised."""
    config = spec.synthesis
    places = [plan_entry(teacher, spec, index) for index in indices]
    owned = [spec.first_index + index for index in indices]
    wanted = METHODS[spec.method](teacher, places, owned, spec.seed, spec.targets)
    starts = draw_initial(config.start, owned, seed=spec.seed, shape=teacher.spec.shape, box=teacher.spec.box)
    if config.pixels == "project":
        starts.clamp_(*teacher.spec.box)
    moved = (
        torch.tensor(wanted.optimised).nonzero()[:, 0] if config.steps else torch.empty(0, dtype=torch.int64)
    )
    targets = torch.from_numpy(wanted.targets)
    warps = None
    if config.warp.moves and len(moved):
        warps = draw_warps([owned[row] for row in moved.tolist()], config.steps, seed=spec.seed)
    return ShardPlan(
        starts=starts,
        targets=targets,
        anchors=torch.tensor([spot.anchor for spot in places]),
        moved=moved,
        work=InversionBatch(starts[moved], targets[moved], warps),
    )


def plan_entry(teacher: Classifier, spec: SetSpec, index: int) -> PlanEntry:
    """Return what the plan of a set holds for one index."""
    share = spec.synthesis.noise_share
    return place(index, count=spec.count, classes=teacher.classes, config=spec.targets, noise_share=share)


def label(
    teacher: Classifier,
    images: Tensor,
    targets: Tensor,
    anchors: Tensor,
    steps: Tensor,
    config: SynthesisConfig,
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
