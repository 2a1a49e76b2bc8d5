"""The optimisation of images towards their targets.

Each lane optimises one image at a time. A lane whose image is finished takes the next one, so that every step
works on a full batch until no image is left. At one batch size and one thread, an image's bits do not depend
on its lane, on the other images, or on the order. Where the objective or the pixel rule couples the images of
a batch, they depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zskd.config.registry import PIXEL_RULES
from zskd.config.synthesis import SynthesisConfig
from zskd.core.device import read_every
from zskd.core.errors import ZskdError
from zskd.core.types import Images
from zskd.models.classifier import Classifier
from zskd.synthesis.inversion.lanes import InversionBatch, Lanes, LaneState
from zskd.synthesis.inversion.objective import Memory, Objective, divergence_and_gradient, match_targets
from zskd.synthesis.inversion.pixels import PixelRule

_LOOK_EVERY = 3
"""Steps between two looks at which images have met their targets, on a GPU."""


def invert(
    teacher: Classifier,
    batch: InversionBatch,
    config: SynthesisConfig,
    objective: Objective | None = None,
    *,
    on_step: Callable[[LaneState], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[Images, Tensor]:
    """Optimise images until the teacher outputs their targets, or all steps are taken.

    x* = argmin_x of the objective, by Adam  (ZSKD, equation 5). An image is finished by the first step at
    which KL(y ‖ softmax(T(A(x))/τ)) is below the tolerance.

    Args:
        teacher: frozen, in evaluation mode.
        batch: start images, targets and random maps of N images.
        config: steps, tolerance, learning rate, temperature, number of lanes, and pixel rule.
        objective: what is minimised; None: `match_targets(config)`.
        on_step: called before every step with the state of the lanes.
        on_progress: called with the number of images that were found finished.

    Returns:
        Images inside the teacher's input box (N, C, H, W), and the steps that each took (N,), int32.

    Raises:
        ZskdError: the loss is not finite, or there is a tolerance and the objective couples images.
    """
    objective = objective or match_targets(config)
    if objective.couples and config.tolerance:
        raise ZskdError(
            "--synthesis.tolerance must be 0 where the objective couples the images of a batch: all of them "
            "take the same steps"
        )
    # who follows the steps is shown each of them
    look_every = 1 if on_step is not None else _look_every(teacher.device, config)
    lanes = Lanes(batch.to(teacher.device), config, look_every)
    box = teacher.spec.box
    pixel_rule: PixelRule = PIXEL_RULES.load(config.pixels)
    memory: Memory = {}
    while lanes.finished < len(batch):
        if on_step is not None:
            on_step(LaneState(lanes.numbers, lanes.steps, lanes.images))
        divergence, gradient = divergence_and_gradient(
            teacher,
            objective,
            lanes.images,
            lanes.targets,
            lanes.warps,
            lanes.active,
            config,
            memory,
            holding=lanes.holding,
        )
        lanes.adam.update(lanes.images, gradient, config.learning_rate)
        pixel_rule(lanes.images, box)
        try:
            finished = lanes.advance(divergence, box)
        except ZskdError as error:
            raise _cause(error, teacher, batch, config) from error
        if finished:
            memory.clear()  # where images are coupled, the whole batch is finished
            if on_progress is not None:
                on_progress(finished)
    return lanes.results[: len(batch)].cpu(), lanes.steps_taken[: len(batch)].cpu()


def _look_every(device: torch.device, config: SynthesisConfig) -> int:
    """Return after how many steps it is looked at which images are finished.

    Where images can be finished early, their lanes wait for the look, for a step on average.
    """
    return min(read_every(device), _LOOK_EVERY) if config.tolerance else read_every(device)


def _cause(
    error: ZskdError, teacher: Classifier, batch: InversionBatch, config: SynthesisConfig
) -> ZskdError:
    """Return the error for a loss that is not finite: of the teacher, where start images show it already."""
    starts = batch.starts[: config.batch_size].clamp(*teacher.spec.box).to(teacher.device)
    with torch.no_grad():
        if bool(torch.isfinite(teacher(starts)).all()):
            return error
    return ZskdError(
        "synthesis: the loss is not finite, because the teacher's logits for start images are not: check its "
        "weights, mean and std with zskd inspect"
    )
