"""The optimisation of images towards their targets.

So many images are worked on at a time as there are lanes. A lane whose image is finished takes the next
one, so that every step works on a full batch until the images run out. At one batch size and one thread
an image's bits depend on nothing but itself: not on its lane, its neighbours, or when its turn comes. Where
the objective or the pixel rule couples the images of a batch, they depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from zskd.config.registry import PIXEL_RULES
from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.core.types import Images
from zskd.models.classifier import Classifier
from zskd.synthesis.inversion.lanes import InversionBatch, Lanes, LaneState
from zskd.synthesis.inversion.objective import Objective, divergence_and_gradient, match_targets
from zskd.synthesis.inversion.pixels import PixelRule


def invert(
    teacher: Classifier,
    batch: InversionBatch,
    config: SynthesisConfig,
    objective: Objective | None = None,
    *,
    on_step: Callable[[LaneState], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Images, Tensor]:
    """Optimise images until the teacher outputs their targets, or their steps are used up.

    x* = argmin_x of the objective, by Adam. An image is finished by the step at which
    KL(y ‖ softmax(T(A(x))/τ)) is found below the tolerance.

    Args:
        teacher: frozen, in evaluation mode.
        batch: images, targets and maps.
        config: steps, tolerance, learning rate, temperature, lanes, and what happens to pixels that leave
            the box.
        objective: what is minimised; absent: `match_targets(config)`.
        on_step: called before every step.
        on_progress: called with the number of images that a step has finished.

    Returns:
        Images inside the teacher's input box, and the steps that each has taken (N,), int32.

    Raises:
        ZskdError: the loss is no longer finite (step and settings to look at are named), or images that are
            coupled would not take the same steps.
    """
    objective = objective or match_targets(config)
    if objective.couples and config.tolerance:
        raise ZskdError(
            "--synthesis.tolerance must be 0 where the objective couples the images of a batch: all of them "
            "take the same steps"
        )
    lanes = Lanes(batch.to(teacher.device), config)
    box = teacher.spec.box
    keep_inside: PixelRule = PIXEL_RULES.load(config.pixels)
    while lanes.finished < len(batch):
        if on_step is not None:
            on_step(LaneState(lanes.numbers, lanes.steps, lanes.images))
        divergence, gradient = divergence_and_gradient(
            teacher, objective, lanes.images, lanes.targets, lanes.warps, lanes.active, config
        )
        lanes.adam.update(lanes.images, gradient, config.learning_rate)
        keep_inside(lanes.images, box)
        finished = lanes.move_on(divergence, box)
        if finished and on_progress is not None:
            on_progress(finished)
    return lanes.results[: len(batch)].cpu(), lanes.taken[: len(batch)].cpu()
