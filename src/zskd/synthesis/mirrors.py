"""Whether images are made so that their mirror images have the same class: the teacher is asked.

An impression that is mirrored at random steps of its optimisation ends with one class for both sides. That
helps where real images are so, photographs say, and makes other digits of digits. Impressions made without
flips tell which it is: of a teacher of photographs most keep their class when they are mirrored, of a teacher
of digits hardly more than would by chance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from zskd.core.passes import Passes, counting
from zskd.core.progress import Progress
from zskd.models.classifier import Classifier
from zskd.models.many_images import logits_in_parts
from zskd.models.modes import frozen
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


def settle_mirrors(teacher: Classifier, spec: SetSpec, progress: Progress | None = None) -> Settled:
    """Return the spec with or without flips as the teacher answers, if it is to be asked.

    Args:
        teacher: run in evaluation mode; left as it is.
        spec: from `fit_spec`; with `synthesis.changes: all` it is returned as it is.
        progress: receives the images that the teacher is asked about, and a line.

    Raises:
        ZskdError: as for `make_shard`.
    """
    config = spec.synthesis
    if config.changes == "all":
        return Settled(spec)
    warp, asked = config.warp, None
    if (question := impressions_asked(spec)) is not None:
        progress = progress or Progress()
        with counting(teacher=teacher) as tally:
            share = share_mirrored(teacher, question, progress)
        used, asked = share >= ENOUGH, tally.passes()
        progress.log(
            f"{spec.method}: images are made {'with' if used else 'without'} flips: the teacher predicts "
            f"the same class for {100 * share:.0f} % of some impressions when they are mirrored"
        )
        warp = warp if used else replace(warp, flip=0.0)
    return Settled(replace(spec, synthesis=replace(config, changes="all", warp=warp)), asked)


def impressions_asked(spec: SetSpec) -> SetSpec | None:
    """Return the held-out impressions without flips whose mirror images the teacher is asked about.

    Args:
        spec: of the set.

    Returns:
        Their spec; None where nothing depends on the answer.
    """
    config = spec.synthesis
    if config.changes == "all" or not config.warp.flip or not spec.optimises:
        return None
    count = min(_IMAGES, config.batch_size)
    config = replace(
        config,
        changes="all",
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
        question: from `impressions_asked`.
        progress: receives images.
    """
    count = question.count
    with (progress or Progress()).task("mirrored impressions", count, "images") as task:
        images = make_shard(teacher, question, 0, on_progress=task.advance).images.to(teacher.device)
    with frozen(teacher), counting("labelling", teacher=teacher):
        answers, of_mirrored = (logits_in_parts(teacher, one, count) for one in (images, images.flip(3)))
    return float((answers.argmax(1) == of_mirrored.argmax(1)).double().mean())
