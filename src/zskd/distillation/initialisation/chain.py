"""Initialisation of a student that is a narrower copy of a chain of layers.

Each layer takes the teacher's channels that matter most for the logits, and its weights are fitted so that
its outputs are those of the teacher's channels. He et al. 2017 (arXiv:1707.06168) and Luo et al. 2017
(arXiv:1707.06342) repair pruned networks so on real images.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor, nn

from zskd.core.errors import ZskdError
from zskd.core.passes import count_images
from zskd.core.progress import Progress
from zskd.core.tensors import set_state
from zskd.core.types import Images
from zskd.distillation.initialisation.channel_selection import Judged, select_channels
from zskd.distillation.initialisation.effort import Plan, Work, counted, plan_chain
from zskd.distillation.initialisation.elimination import divergence
from zskd.distillation.initialisation.passes import Passes
from zskd.distillation.initialisation.ridge import WeightedLayer, fit_layer, in_parts, weighted_layer
from zskd.models.chain import Layer, build_layers, in_a_row, read_layers
from zskd.models.classifier import Classifier
from zskd.models.modes import in_mode

_WIDTHS = {"in_channels", "out_channels", "in_features", "out_features", "num_features"}


@torch.no_grad()
def initialise_chain(
    teacher: Classifier,
    student: Classifier,
    draw: Callable[[], Images],
    rng: Generator,
    *,
    trained: int = 0,
    progress: Progress | None = None,
) -> bool:
    """Set a student's weights to fitted weights of its teacher.

    There are up to four attempts, each on other images; the student keeps the one whose logits are nearest to
    the teacher's.

    Args:
        teacher: left as it is.
        student: on the same device; its weights are set in place, or left as they are.
        draw: returns other images (N, C, H, W) in [0, 1] at each call, on that device; 2,000 are plenty.
        rng: for the positions that convolutions are fitted on.
        trained: images that the student will be trained on, counted at every step: see `most_work`.
        progress: reports the work.

    Returns:
        Whether the weights were set: both are plain chains of the same layers, and no layer of the student is
        wider.
    """
    try:
        student_chain, teacher_chain = in_a_row(student.module), in_a_row(teacher.module)
        layers = read_layers(teacher_chain)
        if not _is_narrower(read_layers(student_chain), layers):
            return False
    except ZskdError:  # one of them is no plain chain
        return False
    if _computed(student_chain):  # what is written would be computed again
        return False
    with in_mode(student_chain, training=False), in_mode(teacher_chain, training=False):
        images = teacher.normalise(draw())
        teacher_chain = _with_own_weights(teacher_chain, layers, images[:1])
        plan = plan_chain(teacher_chain, student_chain, images[:1], len(images), trained)
        held_out = in_parts(images[: plan.images])
        logits = [teacher_chain(images) for images in held_out]
        count_images(teacher, forward=plan.images)
        attempts: list[tuple[float, dict[str, Tensor]]] = []
        with counted(progress or Progress(), "start from the teacher", plan.total) as work:
            for _ in range(plan.effort.attempts):
                images = teacher.normalise(draw())[: plan.images]
                _select_weights(student_chain, teacher_chain, images, rng, plan, work)
                # each layer once for every image, in both networks; then the student's logits
                count_images(teacher, forward=len(images))
                count_images(student, forward=len(images) + plan.images)
                distance = sum(
                    len(images) * divergence(student_chain(images), target)
                    for images, target in zip(held_out, logits, strict=True)
                )
                weights = {name: value.clone() for name, value in student_chain.state_dict().items()}
                attempts.append((distance, weights))
        set_state(student_chain, min(attempts, key=lambda one: one[0])[1])
    return True


def _select_weights(
    student: nn.Sequential, teacher: nn.Sequential, images: Tensor, rng: Generator, plan: Plan, work: Work
) -> None:
    """Select and fit the weights of each layer in turn, on normalised images (N, C, H, W)."""
    width = images.shape[1]
    channels = torch.arange(width, device=images.device)
    judged, parts = Judged(teacher, images[: plan.effort.judged]), in_parts(images)
    of_teacher, of_student = Passes(teacher, parts), Passes(student, parts)
    for index, (layer, source) in enumerate(zip(student, teacher, strict=True)):
        if isinstance(layer, WeightedLayer):
            in_channels, of_layer = channels, plan.layers[index]
            of_teacher.advance(index + 1)
            of_student.advance(index)
            work.spend(of_layer.passes)
            channels = select_channels(
                teacher,
                index,
                len(layer.weight),
                of_teacher,
                judged,
                rng,
                effort=plan.effort,
                judge=partial(work.spend, each=of_layer.candidate),
            )
            _copy_channels(layer, source, channels, in_channels)
            wanted = (outputs[:, channels] for outputs in of_teacher.at(index + 1))
            fit_layer(layer, zip(of_student.at(index), wanted, strict=True), of_layer.rows, rng)
            work.spend(of_layer.fit)
            width = len(weighted_layer(teacher, index).weight)
        else:  # a batch-norm has values of each channel, or of its pixels after a flatten; others have none
            tensors = layer.state_dict()
            for name, values in source.state_dict().items():
                chosen = values.view(width, -1)[channels].flatten() if values.ndim else values
                tensors[name].copy_(chosen)


def _computed(chain: nn.Sequential) -> list[int]:
    """Return which layers compute their weights at each call: weight norm, spectral norm, pruning."""
    return [
        index
        for index, layer in enumerate(chain)
        if isinstance(layer, WeightedLayer) and "weight" not in layer._parameters
    ]


def _with_own_weights(chain: nn.Sequential, layers: list[Layer], image: Tensor) -> nn.Sequential:
    """Return a chain with plain layers of the same weights instead of those whose weights are computed."""
    if not (computed := _computed(chain)):
        return chain
    chain(image.clone())  # computes them
    plain = {index: build_layers([layers[index]])[0] for index in computed}
    for index, layer in plain.items():
        layer.load_state_dict({name: getattr(chain[index], name) for name in layer.state_dict()})
        layer.to(image.device).requires_grad_(False)
    return nn.Sequential(*(plain.get(index, layer) for index, layer in enumerate(chain)))


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
