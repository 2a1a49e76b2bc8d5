"""Whether images are made so that their mirror images have the same class: the teacher is asked.

An impression that is mirrored at random steps of its optimisation ends with one class for both sides. That
helps where real images are so, photographs say, and makes other digits of digits. Impressions made without
flips tell which it is: of a teacher of photographs most keep their class when they are mirrored, of a teacher
of digits hardly more than would by chance.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

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


def settle_mirrors(teacher: Classifier, spec: SetSpec, progress: Progress | None = None) -> SetSpec:
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
        return spec
    warp = config.warp
    if warp.flip and spec.optimises:
        share = share_mirrored(teacher, spec, progress := progress or Progress())
        used = share >= ENOUGH
        progress.log(
            f"{spec.method}: images are made {'with' if used else 'without'} flips: the teacher predicts "
            f"the same class for {100 * share:.0f} % of some impressions when they are mirrored"
        )
        warp = warp if used else replace(warp, flip=0.0)
    return replace(spec, synthesis=replace(config, changes="all", warp=warp))


def share_mirrored(teacher: Classifier, spec: SetSpec, progress: Progress | None = None) -> float:
    """Return the share of held-out impressions, made without flips, that keep their class when mirrored.

    Args:
        teacher: run in evaluation mode; left as it is.
        spec: of the set, from `fit_spec`.
        progress: receives images.
    """
    count = min(_IMAGES, spec.synthesis.batch_size)
    config = replace(
        spec.synthesis,
        changes="all",
        warp=replace(spec.synthesis.warp, flip=0.0),
        noise_share=0.0,
        shard_size=count,
        missed="keep",
    )
    targets = replace(spec.targets, order="interleaved")
    few = replace(spec, count=count, first_index=HELD_OUT, targets=targets, synthesis=config)
    with (progress or Progress()).task("mirrored impressions", count, "images") as task:
        images = make_shard(teacher, few, 0, on_progress=task.advance).images.to(teacher.device)
    with frozen(teacher):
        answers, of_mirrored = (logits_in_parts(teacher, one, count) for one in (images, images.flip(3)))
    return float((answers.argmax(1) == of_mirrored.argmax(1)).double().mean())
