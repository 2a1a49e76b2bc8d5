"""What the teacher is asked before a set is made: the learning rate, and whether images are made with flips.

Both are answered by some impressions that are not of the set, made without flips. An impression that is
mirrored at random steps of its optimisation ends with one class for both sides. That helps where real images
are so, photographs say, and makes other digits of digits. Impressions made without flips tell which it is: of
a teacher of photographs most keep their class when they are mirrored, of a teacher of digits hardly more than
would by chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from zskd.core.device import use_threads
from zskd.core.passes import Passes, counting
from zskd.core.progress import Progress
from zskd.core.types import Images
from zskd.models.classifier import Classifier
from zskd.models.many_images import logits_in_parts
from zskd.models.modes import frozen
from zskd.synthesis.learning_rate import search_learning_rate
from zskd.synthesis.shard import make_shard
from zskd.synthesis.sizes import in_files
from zskd.synthesis.spec import HELD_OUT, SetSpec

ENOUGH: Final = 0.5
"""Least share of impressions with the same class when they are mirrored, for which images are made with
flips."""
_IMAGES = 100
_LEAST = 32
"""Impressions that the teacher is asked about: a batch of up to 100, or as many smaller ones as give 32."""


@dataclass(frozen=True)
class Settled:
    """How a set is made, with nothing left to ask."""

    spec: SetSpec
    asked: Passes | None = None
    """Passes of the teacher for the question; None: it was not asked."""

    def sized(self, count: int) -> Settled:
        """Return the same for another number of images."""
        return replace(self, spec=replace(self.spec, count=count))

    def in_files(self, images: int) -> Settled:
        """Return the same with so many images in each file."""
        return replace(self, spec=in_files(self.spec, images))


def settle(teacher: Classifier, spec: SetSpec, progress: Progress | None = None) -> Settled:
    """Return the spec with the learning rate and the flips that the teacher answers, where it is to be asked.

    Args:
        teacher: run in evaluation mode; left as it is.
        spec: from `fit_spec`; with `synthesis.changes: all` and without a search it is returned as it is.
        progress: receives the images that the teacher is asked about, and a line for each answer.

    Raises:
        ZskdError: as for `make_shard`.
    """
    progress, config = progress or Progress(), spec.synthesis
    rate, warp, images = config.learning_rate, config.warp, None
    with counting(teacher=teacher) as tally:
        if spec.searches_rate:
            found = search_learning_rate(
                teacher, some_impressions(spec), config.learning_rate_search, progress
            )
            rate, images = found.rate, found.shard.images
        if spec.asks_about_flips:
            # what the search has made are the same images
            images = _make(teacher, some_impressions(spec), progress) if images is None else images
            share = share_mirrored(teacher, images)
            used = share >= ENOUGH
            progress.log(
                f"{spec.method}: images are made {'with' if used else 'without'} flips: the teacher predicts "
                f"the same class for {100 * share:.0f} % of {len(images)} impressions when they are mirrored"
            )
            warp = warp if used else replace(warp, flip=0.0)
    config = replace(config, changes="all", warp=warp, learning_rate=rate, learning_rate_search=0)
    return Settled(replace(spec, synthesis=config), tally.passes() if tally.total else None)


def some_impressions(spec: SetSpec) -> SetSpec:
    """Return the spec of the held-out impressions, made without flips, that the teacher is asked about."""
    config, together = spec.synthesis, spec.own_method.images_per_start
    batches = math.ceil(_LEAST / config.batch_size)
    count = max(together, min(_IMAGES, batches * config.batch_size) // together * together)
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


def share_mirrored(teacher: Classifier, images: Images) -> float:
    """Return the share of some images that keep their class when they are mirrored.

    Args:
        teacher: run in evaluation mode; left as it is.
        images: (N, C, H, W).
    """
    images = images.to(teacher.device)
    with frozen(teacher), use_threads(1), counting("labelling", teacher=teacher):
        answers, of_mirrored = (logits_in_parts(teacher, one, len(one)) for one in (images, images.flip(3)))
    return float((answers.argmax(1) == of_mirrored.argmax(1)).double().mean())


def _make(teacher: Classifier, question: SetSpec, progress: Progress) -> Images:
    """Return the images of a spec of one shard."""
    with progress.task("mirrored impressions", question.count, "images") as task:
        return make_shard(teacher, question, 0, on_progress=task.advance).images
