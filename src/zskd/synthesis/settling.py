"""What the teacher is asked before a set is made: the learning rate, and whether images are made with flips.

Both are answered by some impressions that are not of the set, made without flips. An impression that is
mirrored at random steps of its optimisation ends with one class for both sides. That helps where real images
are so, photographs say, and makes other digits of digits. Impressions made without flips tell which it is: of
a teacher of photographs most keep their class when they are mirrored, of a teacher of digits hardly more than
would by chance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from zskd.core.passes import Passes, counting
from zskd.core.progress import Progress
from zskd.models.classifier import Classifier
from zskd.models.many_images import logits_in_parts
from zskd.models.modes import frozen
from zskd.synthesis.learning_rate import search_learning_rate
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import HELD_OUT, SetSpec

ENOUGH: Final = 0.5
"""Least share of impressions with the same class when they are mirrored, for which images are made with
flips."""
_IMAGES = 100


@dataclass(frozen=True)
class Settled:
    """How a set is made, with nothing left to ask."""

    spec: SetSpec
    asked: Passes | None = None
    """Passes of the teacher for the question; None: it was not asked."""

    def sized(self, count: int) -> Settled:
        """Return the same for another number of images."""
        return replace(self, spec=replace(self.spec, count=count))


def settle(teacher: Classifier, spec: SetSpec, progress: Progress | None = None) -> Settled:
    """Return the spec with the learning rate and the flips that the teacher answers, where it is to be asked.

    Args:
        teacher: run in evaluation mode; left as it is.
        spec: from `fit_spec`; with `synthesis.changes: all` and without a search it is returned as it is.
        progress: receives the images that the teacher is asked about, and a line for each answer.

    Raises:
        ZskdError: as for `make_shard`.
    """
    progress, asked = progress or Progress(), None
    with counting(teacher=teacher) as tally:
        spec = _with_rate(teacher, spec, progress)
        spec = _with_flips(teacher, spec, progress)
    if tally.total:
        asked = tally.passes()
    return Settled(spec, asked)


def _with_rate(teacher: Classifier, spec: SetSpec, progress: Progress) -> SetSpec:
    """Return the spec with the learning rate that a search finds, if there is to be one."""
    config = spec.synthesis
    if searches_rate(spec):
        found = search_learning_rate(teacher, some_impressions(spec), config.learning_rate_search, progress)
        config = replace(config, learning_rate=found)
    return replace(spec, synthesis=replace(config, learning_rate_search=0))


def _with_flips(teacher: Classifier, spec: SetSpec, progress: Progress) -> SetSpec:
    """Return the spec with or without flips, as the teacher answers, if it is to be asked."""
    config = spec.synthesis
    warp = config.warp
    if asks_about_flips(spec):
        share = share_mirrored(teacher, some_impressions(spec), progress)
        used = share >= ENOUGH
        progress.log(
            f"{spec.method}: images are made {'with' if used else 'without'} flips: the teacher predicts "
            f"the same class for {100 * share:.0f} % of some impressions when they are mirrored"
        )
        warp = warp if used else replace(warp, flip=0.0)
    return replace(spec, synthesis=replace(config, changes="all", warp=warp))


def searches_rate(spec: SetSpec) -> bool:
    """Return whether the learning rate is searched before the set is made."""
    return spec.synthesis.learning_rate_search > 0 and spec.optimises and spec.own_method.by_objective


def asks_about_flips(spec: SetSpec) -> bool:
    """Return whether the teacher is asked about mirrored impressions before the set is made."""
    config = spec.synthesis
    return config.changes == "by_teacher" and config.warp.flip > 0 and spec.optimises


def some_impressions(spec: SetSpec) -> SetSpec:
    """Return the spec of the held-out impressions, made without flips, that the teacher is asked about."""
    config = spec.synthesis
    count = min(_IMAGES, config.batch_size)
    config = replace(
        config,
        changes="all",
        learning_rate_search=0,
        warp=replace(config.warp, flip=0.0),
        noise_share=0.0,
        shard_size=count,
        missed="keep",
    )
    targets = replace(spec.targets, order="interleaved")
    return replace(spec, count=count, first_index=HELD_OUT, targets=targets, synthesis=config)


def share_mirrored(teacher: Classifier, question: SetSpec, progress: Progress | None = None) -> float:
    """Return the share of some impressions that keep their class when they are mirrored.

    Args:
        teacher: run in evaluation mode; left as it is.
        question: from `some_impressions`.
        progress: receives images.
    """
    count = question.count
    with (progress or Progress()).task("mirrored impressions", count, "images") as task:
        images = make_shard(teacher, question, 0, on_progress=task.advance).images.to(teacher.device)
    with frozen(teacher), counting("labelling", teacher=teacher):
        answers, of_mirrored = (logits_in_parts(teacher, one, count) for one in (images, images.flip(3)))
    return float((answers.argmax(1) == of_mirrored.argmax(1)).double().mean())
