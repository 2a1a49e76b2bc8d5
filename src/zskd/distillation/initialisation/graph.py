"""Initialisation of a student that is a copy of any network with fewer channels or blocks.

The teacher is cut to the student's shape, with the channels that a rule of `importance` chooses on images.
Then each layer is fitted to the teacher's, and the statistics of batch-norm layers are taken again. During
the fit, these layers normalise by the images at hand, as they will in training: fitted with the teacher's
statistics, a student is far from its teacher as soon as it is trained. Several rules are tried; the student
keeps the weights whose logits are nearest to the teacher's on other images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator, Tensor

from zskd.core.memory import at_once
from zskd.core.progress import Progress
from zskd.core.tensors import set_state
from zskd.core.types import Images
from zskd.distillation.batch_norm import by_batch, take_statistics
from zskd.distillation.initialisation.effort import Work, counted
from zskd.distillation.initialisation.elimination import divergence
from zskd.distillation.initialisation.graph_effort import Costs, GraphPlan, plan_copy
from zskd.distillation.initialisation.importance import Importance
from zskd.distillation.initialisation.repair import Place, find_places, repair
from zskd.distillation.initialisation.ridge import in_parts
from zskd.models.classifier import Classifier
from zskd.models.counting import count_multiply_adds
from zskd.models.modes import in_mode
from zskd.models.narrow.cut import Cut
from zskd.models.narrow.matching import Match, match_copy

_WITH_GRADIENTS = 50
"""Images in one pass forwards and backwards, fewer of large ones."""
_LEAST_PART = 8
"""Least number of images in a pass that takes the statistics of batch-norm layers."""
_SAME = 1e-9
"""Divergence in nats up to which logits are the same."""


@torch.no_grad()
def initialise_copy(
    teacher: Classifier,
    student: Classifier,
    draw: Callable[[], Images],
    rng: Generator,
    *,
    trained: int = 0,
    progress: Progress | None = None,
) -> str | None:
    """Set a student's weights to fitted weights of its teacher.

    Args:
        teacher: in evaluation mode, without gradients; left as it is.
        student: on the same device; its weights are set in place, or left as they are.
        draw: returns other images (N, C, H, W) in [0, 1] at each call, on that device; 2,000 are plenty.
        rng: for the choice of channels, and for the positions that layers are fitted on.
        trained: images that the student will be trained on, counted at every step: see `most_work`.
        progress: reports the work.

    Returns:
        What was done, for messages; None where the student is no copy of the teacher with fewer channels or
        blocks, and keeps its weights.
    """
    images = draw()
    image = teacher.normalise(images[:1])
    match = match_copy(teacher.module, student.module, image)
    if match is None:
        return None
    with in_mode(student, training=False):
        _load(student, match.cut({one.group.name: torch.ones(one.group.size) for one in match.shares}))
        places = find_places(teacher, student, images[:1])
        costs = Costs(*(count_multiply_adds(one.module, image) for one in (teacher, student)))
        plan = plan_copy(places, costs, len(images), trained, chooses=bool(match.shares))
        held_out = in_parts(draw()[: plan.scored])
        logits = [teacher(part) for part in held_out]
        copied = _distance(student, held_out, logits)
        if copied < _SAME:
            return "copied"
        attempts = [(copied, _weights(student), "copied")]
        parts = _parts(images[: plan.images])
        with counted(progress or Progress(), "start from the teacher", plan.total) as work:
            for rule, cut in _cuts(teacher, match, plan, images[: plan.scored], rng):
                work.spend(plan.choice if len(attempts) == 1 else 0)
                _load(student, cut)
                _fit(teacher, student, cut, plan, parts, rng, work)
                attempts.append((_distance(student, held_out, logits), _weights(student), rule))
                work.spend(plan.attempt)
        _, weights, how = min(attempts, key=lambda one: one[0])
        set_state(student.module, weights)
    return how


def _cuts(
    teacher: Classifier, match: Match, plan: GraphPlan, images: Tensor, rng: Generator
) -> Iterator[tuple[str, Cut]]:
    """Yield what is cut by each rule, and words for it."""
    if not plan.rules:
        yield "layers fitted", match.cut({})
        return
    parts = torch.split(images, at_once(_WITH_GRADIENTS, images.shape))
    importance = Importance(teacher, match, parts, rng)
    for rule in plan.rules:
        yield f"channels by {rule}, layers fitted", match.cut(importance.of_groups(rule))


def _fit(
    teacher: Classifier,
    student: Classifier,
    cut: Cut,
    plan: GraphPlan,
    parts: Sequence[Tensor],
    rng: Generator,
    work: Work,
) -> None:
    """Fit all layers, and take the statistics of batch-norm layers again."""

    def done(sweep: Sequence[Place]) -> None:
        work.spend(plan.passes + sum(map(plan.fit, sweep)))

    with by_batch(student):
        repair(teacher, student, plan.sweeps, cut.outputs, parts, rng, done)
    take_statistics(student, parts)


def _parts(images: Tensor) -> tuple[Tensor, ...]:
    """Split images into parts of one size, so that batch-norm layers get no small one."""
    size = max(len(in_parts(images)[0]), min(_LEAST_PART, len(images)))
    return torch.split(images[: len(images) // size * size], size)


def _distance(student: Classifier, parts: Sequence[Tensor], logits: Sequence[Tensor]) -> float:
    total = sum(len(part) * divergence(student(part), one) for part, one in zip(parts, logits, strict=True))
    return total / sum(map(len, parts))


def _load(student: Classifier, cut: Cut) -> None:
    """Give a student the weights of a cut of its shape."""
    made = cut.network.state_dict()
    set_state(student.module, {name: made[name] for name in student.module.state_dict()})


def _weights(student: Classifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in student.module.state_dict().items()}
