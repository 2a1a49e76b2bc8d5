"""The optimisation of images towards their targets.

So many images are worked on at a time as there are lanes. A lane whose image is finished takes the next
one, so that every step works on a full batch until the images run out. At one batch size and one thread
an image's bits depend on nothing but itself: not on its lane, its neighbours, or when its turn comes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from zskd.config.synthesis import SynthesisConfig
from zskd.core.types import Images
from zskd.models.classifier import Classifier
from zskd.synthesis.inversion.lanes import PIXEL_RULES, InversionBatch, Lanes, LaneState
from zskd.synthesis.inversion.objective import loss_and_gradient


def invert(
    teacher: Classifier,
    work: InversionBatch,
    config: SynthesisConfig,
    *,
    on_step: Callable[[LaneState], None] | None = None,
    tell: Callable[[int], None] | None = None,
) -> tuple[Images, Tensor]:
    """Optimise images until the teacher answers with their targets, or their steps are used up.

    x* = argmin_x CE(y, softmax(T(A(x))/τ)) + l2/2·|x|²

    ZSKD's equation 5 has neither the penalty, which is the reproduction's, nor the random maps A, which are
    those of Athalye et al. 2018. The losses of a batch are added, not averaged: the gradient of an image is
    then its own, whatever its neighbours are. An image is finished by the step at which
    KL(y ‖ softmax(T(A(x))/τ)) is found below the tolerance.

    Args:
        teacher: frozen, in evaluation mode.
        work: images, targets and maps.
        config: steps, tolerance, learning rate, temperature, lanes, and what happens to pixels that leave
            the box.
        on_step: called before every step.
        tell: called with the number of images that a step has finished.

    Returns:
        Images inside the teacher's input box, and the steps that each has taken (N,), int32.

    Raises:
        ZskdError: the loss is no longer finite; step and settings to look at are named.
    """
    lanes = Lanes(work.to(teacher.device), config)
    box = teacher.spec.box
    keep_inside = PIXEL_RULES[config.pixels]
    while lanes.finished < len(work):
        if on_step is not None:
            on_step(LaneState(lanes.numbers, lanes.steps, lanes.images))
        kl, gradient = loss_and_gradient(teacher, lanes, config)
        lanes.adam.update(lanes.images, gradient, config.learning_rate)
        keep_inside(lanes.images, box)
        finished = lanes.move_on(kl, box)
        if finished and tell is not None:
            tell(finished)
    return lanes.results[: len(work)].cpu(), lanes.taken[: len(work)].cpu()
