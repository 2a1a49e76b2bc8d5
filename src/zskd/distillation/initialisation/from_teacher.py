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
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from zskd.config.distillation import DistillConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress
from zskd.core.rng import torch_stream
from zskd.core.types import Images
from zskd.data.transforms import augment
from zskd.distillation.architecture import copy_student
from zskd.distillation.initialisation.channel_selection import divergence, select_channels
from zskd.distillation.initialisation.ridge import (
    WeightedLayer,
    in_parts,
    normal_equations,
    set_weight_matrix,
    solve_ridge,
    weight_matrix,
    weighted_layer,
)
from zskd.models.chain import Layer, in_a_row, read_layers
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen, in_mode
from zskd.transfer_set.dataset import TransferSet

_WIDTHS = {"in_channels", "out_channels", "in_features", "out_features", "num_features"}
_FIT_IMAGES = 2000
"""Images that layers are fitted on at most, …"""
_FIT_VALUES = 2**26
"""… and pixel values of all of them together."""
_ATTEMPTS = 4
"""Attempts on different images; the best one is used."""


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
    progress: Progress | None = None,
) -> Initialisation:
    """Return a copy of a student with weights selected from the teacher's, to be distilled.

    The student must be a narrower copy of a teacher that is a plain chain of layers, as `half` makes them;
    another student keeps its weights. Sources: He et al. 2017, arXiv:1707.06168; Luo et al. 2017,
    arXiv:1707.06342; Xu et al. 2024, arXiv:2311.18823.

    Args:
        teacher: used in evaluation mode; left as it is.
        student: network that maps normalised images (N, C, H, W) to logits (N, K); left as it is.
        transfer_set: images that the layers are fitted on, of the teacher's input shape.
        config: augmentation of these images; None: that of `DistillConfig`.
        seed: of the draw of images and of the augmentation, at least 0.
        progress: logs how the student is initialised.

    Returns:
        The copy, and whether it was initialised from the teacher.

    Raises:
        ZskdError: images of another shape than the teacher's inputs, or a student of other inputs or classes.
    """
    if transfer_set.shape != teacher.spec.shape:
        raise ZskdError(
            f"{transfer_set.folder} holds images of {transfer_set.shape} and the teacher takes "
            f"{teacher.spec.shape}: give a transfer set of this teacher"
        )
    copied = copy_student(teacher, student)
    config, rng = config or DistillConfig().augment, torch_stream(seed, "inheritance", 0)
    count = min(_FIT_IMAGES, _FIT_VALUES // math.prod(teacher.spec.shape))

    def draw() -> Images:
        stored = transfer_set.images(torch.randint(len(transfer_set), (count,), generator=rng))
        return augment(stored.to(teacher.device), config, teacher.spec.box, rng)

    with frozen(teacher):
        from_teacher = initialise_weights(teacher, copied, draw, rng)
    how = (
        "is initialised with weights of the teacher"
        if from_teacher
        else "keeps its own initial weights: it is no narrower copy of the teacher"
    )
    (progress or Progress()).log(f"distill: the student {how}")
    return Initialisation(copied.module, from_teacher)


@torch.no_grad()
def initialise_weights(
    teacher: Classifier, student: Classifier, draw: Callable[[], Images], rng: Generator
) -> bool:
    """Set a student's weights to fitted weights of its teacher.

    There are four attempts, each on other images; the student keeps the one whose logits are nearest to the
    teacher's.

    Args:
        teacher: left as it is.
        student: on the same device; its weights are set in place, or left as they are.
        draw: returns other images (N, C, H, W) in [0, 1] at each call, on that device; 2,000 are plenty.
        rng: for the positions that convolutions are fitted on.

    Returns:
        Whether the weights were set: both are plain chains of the same layers, and no layer of the student is
        wider.
    """
    try:
        student_chain, teacher_chain = in_a_row(student.module), in_a_row(teacher.module)
        if not _is_narrower(read_layers(student_chain), read_layers(teacher_chain)):
            return False
    except ZskdError:  # one of them is no plain chain
        return False
    with in_mode(student_chain, training=False), in_mode(teacher_chain, training=False):
        held_out = in_parts(teacher.normalise(draw()))
        logits = [teacher_chain(images) for images in held_out]
        attempts: list[tuple[float, dict[str, Tensor]]] = []
        for _ in range(_ATTEMPTS):
            _select_weights(student_chain, teacher_chain, teacher.normalise(draw()), rng)
            distance = sum(
                len(images) * divergence(student_chain(images), target)
                for images, target in zip(held_out, logits, strict=True)
            )
            weights = {name: value.clone() for name, value in student_chain.state_dict().items()}
            attempts.append((distance, weights))
        student_chain.load_state_dict(min(attempts, key=lambda one: one[0])[1])
    return True


def _select_weights(student: nn.Sequential, teacher: nn.Sequential, images: Tensor, rng: Generator) -> None:
    """Select and fit the weights of each layer in turn, on normalised images (N, C, H, W)."""
    channels = torch.arange(images.shape[1], device=images.device)
    for index, (layer, source) in enumerate(zip(student, teacher, strict=True)):
        if isinstance(layer, WeightedLayer):
            in_channels = channels
            channels = select_channels(teacher, index, len(layer.weight), images, rng)
            _copy_channels(layer, source, channels, in_channels)
            _fit(student, teacher, index, channels, images, rng)
        else:  # a batch-norm has values of each channel; others have none
            tensors = layer.state_dict()
            for name, values in source.state_dict().items():
                tensors[name].copy_(values[channels] if values.ndim else values)


def _is_narrower(student: list[Layer], teacher: list[Layer]) -> bool:
    """Whether each channel of the student can be a channel of the teacher, layer by layer."""
    if [name for name, _ in student] != [name for name, _ in teacher]:
        return False
    flat, widths = False, (1, 1)
    for (name, settings), (_, source) in zip(student, teacher, strict=True):
        same = all(settings[key] == source[key] for key in settings.keys() - _WIDTHS)
        fits = all(settings[key] <= source[key] for key in settings.keys() & _WIDTHS)
        if not same or not fits or settings.get("groups", 1) > 1:
            return False
        flat = flat or (name == "Flatten" and settings == {"start_dim": 1, "end_dim": -1})
        if name == "Linear" and not flat:
            return False
        if name in ("Conv2d", "Linear"):
            inputs, outputs = (
                ("in_channels", "out_channels") if name == "Conv2d" else ("in_features", "out_features")
            )
            # after a flatten, a channel is several features, as many in both networks
            if settings[inputs] * widths[1] != source[inputs] * widths[0]:
                return False
            widths = settings[outputs], source[outputs]
    return widths[0] == widths[1]


def _copy_channels(layer: WeightedLayer, source: nn.Module, channels: Tensor, in_channels: Tensor) -> None:
    """Copy the weights of the selected output channels for the selected input channels."""
    assert isinstance(source, WeightedLayer)
    selected = source.weight[channels]
    width = selected.shape[1] * len(in_channels) // layer.weight.shape[1]  # input channels of the teacher
    layer.weight.copy_(selected.reshape(len(channels), width, -1)[:, in_channels].reshape(layer.weight.shape))
    if layer.bias is not None:
        assert source.bias is not None
        layer.bias.copy_(source.bias[channels])


def _fit(
    student: nn.Sequential,
    teacher: nn.Sequential,
    index: int,
    channels: Tensor,
    images: Tensor,
    rng: Generator,
) -> None:
    """Fit a layer's weights, with as little change as needed, to the teacher's selected outputs."""
    layer = weighted_layer(student, index)

    def target(batch: Tensor) -> Tensor:
        outputs: Tensor = teacher[: index + 1](batch)[:, channels]
        return outputs

    gram, cross = normal_equations(layer, student[:index], target, images, rng)
    set_weight_matrix(layer, weight_matrix(layer) + solve_ridge(gram, cross))
