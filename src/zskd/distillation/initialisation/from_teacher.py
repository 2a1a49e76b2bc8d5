"""Initialisation of a student from the teacher: weight selection, then a layer-wise fit.

Distillation on made images does not determine what a student outputs for real ones. A student that is a
narrower copy of its teacher need not start from random weights: each of its layers takes the teacher's
channels that matter most for the logits, and its weights are fitted so that its outputs are those of the
teacher's channels. He et al. 2017 (arXiv:1707.06168) and Luo et al. 2017 (arXiv:1707.06342) repair pruned
networks so on real images, and Xu et al. 2024 (arXiv:2311.18823) initialise small networks with selected
weights of large ones. Here the images are those of the transfer set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from zskd.config.distillation import DistillConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.passes import counting
from zskd.core.progress import Progress
from zskd.core.rng import torch_stream
from zskd.core.types import Images
from zskd.data.transforms import augment
from zskd.distillation.architecture import copy_student
from zskd.distillation.initialisation.chain import initialise_chain
from zskd.distillation.initialisation.graph import initialise_copy
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.transfer_set.dataset import TransferSet

_FIT_IMAGES = 2000
"""Images that layers are fitted on at most, …"""
_FIT_VALUES = 2**26
"""… and pixel values of all of them together."""


@dataclass(frozen=True)
class Initialisation:
    """A student before it is distilled."""

    student: nn.Module
    """A copy of the network that was given, on the teacher's device."""
    from_teacher: bool
    """Whether its weights are selected from the teacher's and fitted; otherwise they are those that were
    given."""


def initialise_from_teacher(
    teacher: Classifier,
    student: nn.Module,
    transfer_set: TransferSet,
    config: AugmentConfig | None = None,
    *,
    seed: int = 0,
    training: DistillConfig | None = None,
    progress: Progress | None = None,
) -> Initialisation:
    """Return a copy of a student with weights selected from the teacher's, to be distilled.

    The student must be a copy of the teacher with fewer channels or blocks, as `half` and `narrow:0.5` make
    them; another student keeps its weights. Sources: He et al. 2017, arXiv:1707.06168; Luo et al. 2017,
    arXiv:1707.06342; Theis et al. 2018, arXiv:1801.05787; Xu et al. 2024, arXiv:2311.18823.

    Args:
        teacher: used in evaluation mode; left as it is.
        student: network that maps normalised images (N, C, H, W) to logits (N, K); left as it is.
        transfer_set: images that the layers are fitted on, of the teacher's input shape.
        config: augmentation of these images; None: that of `DistillConfig`.
        seed: of the draw of images and of the augmentation, at least 0.
        training: the training that follows; the initialisation takes at most a tenth of its multiply-adds, or
            some seconds where that is less. None: the defaults of `DistillConfig`.
        progress: reports the work, and logs how the student is initialised.

    Returns:
        The copy, and whether it was initialised from the teacher.

    Raises:
        ZskdError: images of another shape than the teacher's inputs, or a student of other inputs or classes.
    """
    transfer_set.check_shape(teacher.spec.shape)
    copied = copy_student(teacher, student)
    training, progress = training or DistillConfig(), progress or Progress()
    config, rng = config or DistillConfig().augment, torch_stream(seed, "inheritance", 0)
    trained = training.total_steps(len(transfer_set)) * training.batch_size
    count = min(_FIT_IMAGES, _FIT_VALUES // math.prod(teacher.spec.shape))

    def draw() -> Images:
        stored = transfer_set.images(torch.randint(len(transfer_set), (count,), generator=rng))
        return augment(stored.to(teacher.device), config, teacher.spec.box, rng)

    how: str | None = "is initialised with weights of the teacher"
    with frozen(teacher), counting("initialisation", teacher=teacher):
        from_teacher = initialise_chain(teacher, copied, draw, rng, trained=trained, progress=progress)
        if not from_teacher:
            done = initialise_copy(teacher, copied, draw, rng, trained=trained, progress=progress)
            from_teacher, how = done is not None, f"{how} ({done})"
    if not from_teacher:
        how = "keeps its own initial weights: it is no narrower copy of the teacher"
    progress.log(f"distill: the student {how}")
    return Initialisation(copied.module, from_teacher)
