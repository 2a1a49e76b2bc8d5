"""One shard of a transfer set: plan its images, optimise them, label them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from reprlib import repr as short

import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.config.synthesis import SynthesisConfig
from zskd.core.device import use_threads
from zskd.core.errors import ZskdError
from zskd.core.memory import keep_freed_memory
from zskd.core.passes import counting
from zskd.core.precision import computing_in
from zskd.core.types import Images, Labels, SoftLabels
from zskd.models.classifier import Classifier
from zskd.models.many_images import logits_in_batches
from zskd.models.modes import frozen
from zskd.synthesis.candidates import draw_starts
from zskd.synthesis.inversion.initial import draw_warps
from zskd.synthesis.inversion.lanes import InversionBatch
from zskd.synthesis.plan import PlanEntry, plan_entry
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.shard import Shard
from zskd.transfer_set.storage import round_to

_ROUNDING = 1e-3
"""Largest difference of a sum of probabilities from 1."""


def make_shard(
    teacher: Classifier, spec: SetSpec, number: int, *, on_progress: Callable[[int], None] | None = None
) -> Shard:
    """Make one shard, empty where all of its images are dropped: a pure function of teacher, spec and number.

    Args:
        teacher: used in evaluation mode; left as it is.
        spec: of the set.
        number: of the shard, from 0.
        on_progress: called with numbers of finished images, dropped ones included.

    Raises:
        ZskdError: a loss is not finite.
    """
    indices = spec.indices(number, teacher.classes)
    keep_freed_memory()
    with (
        frozen(teacher),
        use_threads(1),
        torch.no_grad(),
        counting("synthesis", teacher=teacher),
        computing_in(spec.synthesis.precision),
    ):
        plan = plan_shard(teacher, spec, list(indices))
        images = plan.starts  # of this plan alone
        steps = torch.zeros(len(images), dtype=torch.int32)
        if len(plan.rows):
            made = spec.own_method.make(
                teacher, plan.entries, plan.batch, spec.synthesis, on_progress=on_progress
            )
            images[plan.rows], steps[plan.rows] = _checked(spec.method, made, plan.batch.starts)
        if on_progress is not None:
            on_progress(len(images) - len(plan.rows))
        images.clamp_(*teacher.spec.box)
        images = round_to(images, spec.storage(teacher.spec.shape), teacher.spec.box)
        answered = not spec.own_method.by_objective
        with counting("labelling"):
            shard = label(
                teacher,
                images,
                plan.targets,
                plan.anchors,
                steps,
                spec.synthesis,
                outputs_as_targets=answered,
            )
    if spec.synthesis.missed == "keep":
        return shard
    return shard.select(~missed_target(shard, spec.synthesis))


def _checked(method: str, made: object, starts: Images) -> tuple[Images, Tensor]:
    """Return the images and steps that a method made of some start images.

    Raises:
        ZskdError: it made something else.
    """
    match made:
        case (Tensor() as images, Tensor() as steps) if (
            (images.shape, images.dtype, images.device) == (starts.shape, starts.dtype, starts.device)
            and steps.shape == starts.shape[:1]
            and not steps.is_floating_point()
        ):
            return images, steps.int()
    raise ZskdError(
        f"--method {method} made something else than images and steps: `make` must return a float32 tensor "
        f"{tuple(starts.shape)} on the CPU, and one of integers ({len(starts)},)"
    )


def missed_target(shard: Shard, config: SynthesisConfig) -> Tensor:
    """Return which images took all their steps without meeting their target (N,), bool."""
    took_all = (shard.steps >= config.steps) & (shard.steps > 0)
    return took_all & (shard.kl >= (config.tolerance or torch.inf))


@dataclass(frozen=True)
class ShardPlan:
    """The plan of some images: everything that is determined before the optimisation."""

    starts: Images
    """Start images (N, C, H, W)."""
    targets: SoftLabels
    """(N, K), rows on the probability simplex; unused for images that are not optimised."""
    anchors: Labels
    """The class that each image is made for (N,)."""
    rows: Tensor
    """Which of the N images are optimised (M,)."""
    entries: list[PlanEntry]
    """The plan of these M images."""
    batch: InversionBatch
    """The input of the optimisation: these M images."""


def plan_shard(teacher: Classifier, spec: SetSpec, indices: Sequence[int]) -> ShardPlan:
    """Plan some images of a set.

    Args:
        teacher: frozen.
        spec: of the set.
        indices: positions of the images in the set: those of a whole shard where `spec.needs_shard`.

    Raises:
        ZskdError: the method's targets or the start images have another shape, type or range than they must.
    """
    config, method = spec.synthesis, spec.own_method
    entries = [entry_of(teacher, spec, index) for index in indices]
    numbers = [entry.index for entry in entries]
    targets = _as_tensor(spec.method, method.targets(teacher, entries, spec.targets, seed=spec.seed))
    if targets.shape != (len(entries), teacher.classes) or targets.dtype != torch.float32:
        raise ZskdError(
            f"--method {spec.method} returned {targets.dtype} targets {tuple(targets.shape)}: they must be "
            f"float32 of {(len(entries), teacher.classes)}"
        )
    on_simplex = (targets >= 0).all(1) & ((targets.sum(1) - 1).abs() < _ROUNDING)
    if method.optimises and method.by_objective and not bool(on_simplex.all()):
        raise ZskdError(
            f"--method {spec.method} returned targets that are no probabilities: each row must be at least "
            "0, with the sum 1"
        )
    starts = _starts(teacher, spec, indices)
    if config.pixels == "project":
        starts.clamp_(*teacher.spec.box)
    optimised = [method.optimises and entry.optimised and config.steps > 0 for entry in entries]
    rows = torch.tensor(optimised).nonzero()[:, 0]
    warps = None
    if config.warp.moves and len(rows):
        warps = draw_warps([numbers[row] for row in rows.tolist()], config.steps, seed=spec.seed)
    return ShardPlan(
        starts=starts,
        targets=targets,
        anchors=torch.tensor([entry.anchor for entry in entries]),
        rows=rows,
        entries=[entries[row] for row in rows.tolist()],
        batch=InversionBatch(starts[rows], targets[rows], warps),
    )


def _as_tensor(method: str, targets: object) -> Tensor:
    """Return what `targets` of a method returned as a tensor on the CPU.

    Raises:
        ZskdError: it is no array of numbers.
    """
    try:
        return torch.as_tensor(targets, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ZskdError(f"--method {method} returned {short(targets)}: targets must be an array") from error


def _starts(teacher: Classifier, spec: SetSpec, indices: Sequence[int]) -> Images:
    """Return the start image of each index (N, C, H, W); consecutive ones may share it."""
    sharing = spec.own_method.images_per_start
    owners = [index // sharing for index in indices]
    places = {owner: place for place, owner in enumerate(dict.fromkeys(owners))}
    entries = [entry_of(teacher, spec, owner) for owner in places]
    if spec.targets.order == "rows":  # the first owners are not of all classes, as they are when interleaved
        classes = [entry_of(teacher, spec, owner * sharing).anchor for owner in places]
        entries = [replace(entry, anchor=k) for entry, k in zip(entries, classes, strict=True)]
    drawn = draw_starts(teacher, entries, spec.synthesis, seed=spec.seed)
    return drawn if len(places) == len(indices) else drawn[[places[owner] for owner in owners]]


def entry_of(teacher: Classifier, spec: SetSpec, index: int) -> PlanEntry:
    """Return the plan for one image of a set, by its position in the set."""
    return plan_entry(
        index,
        count=spec.count,
        classes=teacher.classes,
        config=spec.targets,
        noise_share=spec.synthesis.noise_share,
        first_index=spec.first_index,
    )


def label(
    teacher: Classifier,
    images: Tensor,
    targets: Tensor,
    anchors: Tensor,
    steps: Tensor,
    config: SynthesisConfig,
    *,
    outputs_as_targets: bool = False,
) -> Shard:
    """Compute the teacher's logits for finished images and return a shard.

    Images of 0 steps were not optimised: the teacher's output becomes their target, and the class that it
    predicts becomes their anchor.

    Args:
        teacher: frozen, in evaluation mode.
        images: (N, C, H, W); they are clamped to the input box.
        targets: (N, K).
        anchors: classes (N,).
        steps: optimisation steps that each image took (N,).
        config: temperature τ and batch size.
        outputs_as_targets: whether this holds for all images.

    Raises:
        ZskdError: a logit is not finite.
    """
    images = images.clamp(*teacher.spec.box)
    with computing_in("float32"):
        logits = logits_in_batches(teacher, images, config.batch_size)
    if not bool(torch.isfinite(logits).all()):
        advice = "check its weights, mean and std with zskd inspect"
        if not bool(torch.isfinite(images).all()):
            advice = "lower --synthesis.learning-rate"
        raise ZskdError(f"synthesis: the teacher's output for a finished image is not finite: {advice}")
    untouched = (steps == 0) | outputs_as_targets
    outputs = F.softmax(logits / config.tau, dim=1)
    targets = torch.where(untouched[:, None], outputs, targets)
    anchors = torch.where(untouched, logits.argmax(1), anchors)
    kl = F.kl_div(F.log_softmax(logits / config.tau, dim=1), targets, reduction="none").sum(1)
    return Shard(images=images, targets=targets, logits=logits, anchors=anchors, steps=steps, kl=kl)
