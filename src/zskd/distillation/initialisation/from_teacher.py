"""A student that begins with its teacher's weights, thinned to its own widths.

What a student learns on made images leaves open what it says about real ones. One that is a narrower copy of
its teacher need not start from nothing: of each layer it takes the channels that the teacher would miss
most, and its weights are then fitted, layer by layer, so that from its own channels it says what the
teacher's say. Pruned networks are repaired so on real images (He et al. 2017, arXiv:1707.06168; Luo et al.
2017, arXiv:1707.06342), and small networks start with chosen weights of large ones (Xu et al. 2024,
arXiv:2311.18823). Here the images are those of the transfer set.
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
    IMAGES_AT_ONCE,
    WeightedLayer,
    as_rows,
    normal_equations,
    set_rows,
    solve_ridge,
    weighted_layer,
)
from zskd.models.chain import Layer, in_a_row, read_layers
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen, in_mode
from zskd.transfer_set.dataset import TransferSet

_WIDTHS = {"in_channels", "out_channels", "in_features", "out_features", "num_features"}
_FITTED_ON = 2000
"""Images that layers are fitted on, …"""
_FITTED_VALUES = 2**26
"""… if they have no more values together."""
_ATTEMPTS = 4
"""Attempts to take over, of which the best one stays."""


@dataclass(frozen=True)
class Initialisation:
    """A student before it is distilled."""

    student: nn.Module
    """A copy of the network that was given, on the teacher's device."""
    taken_over: bool
    """Whether its weights are the teacher's, thinned and fitted; they are those that were given if not."""


def initialise_from_teacher(
    teacher: Classifier,
    student: nn.Module,
    transfer_set: TransferSet,
    config: AugmentConfig | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Initialisation:
    """Return a copy of a student that has taken over what it can, to be distilled.

    It can where it is a narrower copy of a teacher that is a plain chain of layers, as `half` makes them.
    How: He et al. 2017, arXiv:1707.06168; Luo et al. 2017, arXiv:1707.06342; Xu et al. 2024,
    arXiv:2311.18823.

    Args:
        teacher: asked in evaluation mode; left as it is.
        student: network that maps normalised images (N, C, H, W) to logits (N, K); left as it is.
        transfer_set: images that the layers are fitted on, of the teacher's input size.
        config: how they are changed at random before; as `DistillConfig` says if None.
        seed: of the choice of images and of these changes, at least 0.
        progress: told what the student begins with.

    Returns:
        The copy, and whether it took anything over.

    Raises:
        ZskdError: images of another size than the teacher's, or a student of other inputs or classes.
    """
    if transfer_set.shape != teacher.spec.shape:
        raise ZskdError(
            f"{transfer_set.folder} holds images of {transfer_set.shape}, and the teacher takes "
            f"{teacher.spec.shape}"
        )
    begun = copy_student(teacher, student)
    config, numbers = config or DistillConfig().augment, torch_stream(seed, "inheritance", 0)
    count = min(_FITTED_ON, _FITTED_VALUES // math.prod(teacher.spec.shape))

    def draw() -> Images:
        stored = transfer_set.images(torch.randint(len(transfer_set), (count,), generator=numbers))
        return augment(stored.to(teacher.device), config, teacher.spec.box, numbers)

    with frozen(teacher):
        inherited = take_over_weights(teacher, begun, draw, numbers)
    own = "weights of its own, being no narrower copy"
    first = "what it can take over from the teacher" if inherited else own
    (progress or Progress()).log(f"distill: the student begins with {first}")
    return Initialisation(begun.module, inherited)


@torch.no_grad()
def take_over_weights(
    teacher: Classifier, student: Classifier, draw: Callable[[], Images], numbers: Generator
) -> bool:
    """Set a student's weights to what it can take over from its teacher.

    It is tried several times, each on other images, and what comes nearest to the teacher's answers stays.

    Args:
        teacher: left as it is.
        student: on the same device; its weights are set in place, or left as they are.
        draw: makes images that the layers can be fitted on (N, C, H, W), in [0, 1], on that device, each
            time others; 2,000 are plenty.
        numbers: for the choice of places in them.

    Returns:
        Whether it could: both are plain chains of the same layers, and none of the student's is wider.
    """
    try:
        small, large = in_a_row(student.module), in_a_row(teacher.module)
        if not _is_narrower(read_layers(small), read_layers(large)):
            return False
    except ZskdError:  # one of them is no plain chain
        return False
    with in_mode(small, training=False), in_mode(large, training=False):
        judged = teacher.normalise(draw())
        found: list[tuple[float, dict[str, Tensor]]] = []
        for _ in range(_ATTEMPTS):
            _take_over(small, large, teacher.normalise(draw()), numbers)
            parts = torch.split(judged, IMAGES_AT_ONCE)
            distance = sum(len(part) * divergence(small(part), large(part)) for part in parts)
            found.append((distance, {name: value.clone() for name, value in small.state_dict().items()}))
        small.load_state_dict(min(found, key=lambda one: one[0])[1])
    return True


def _take_over(small: nn.Sequential, large: nn.Sequential, inputs: Tensor, numbers: Generator) -> None:
    kept = torch.arange(inputs.shape[1], device=inputs.device)
    for place, (mine, its) in enumerate(zip(small, large, strict=True)):
        if isinstance(mine, WeightedLayer):
            heard, kept = kept, select_channels(large, place, len(mine.weight), inputs, numbers)
            _copy_channels(mine, its, kept, heard)
            _fit(small, large, place, kept, inputs, numbers)
        else:  # a batch-norm has values of each channel; others have none
            own = mine.state_dict()
            for name, values in its.state_dict().items():
                own[name].copy_(values[kept] if values.ndim else values)


def _is_narrower(small: list[Layer], large: list[Layer]) -> bool:
    """Whether channels of the one can stand for channels of the other, layer by layer."""
    if [name for name, _ in small] != [name for name, _ in large]:
        return False
    flat, widths = False, (1, 1)
    for (name, mine), (_, its) in zip(small, large, strict=True):
        same = all(mine[key] == its[key] for key in mine.keys() - _WIDTHS)
        fits = all(mine[key] <= its[key] for key in mine.keys() & _WIDTHS)
        if not same or not fits or mine.get("groups", 1) > 1:
            return False
        flat = flat or (name == "Flatten" and mine == {"start_dim": 1, "end_dim": -1})
        if name == "Linear" and not flat:
            return False
        if name in ("Conv2d", "Linear"):
            fed, out = (
                ("in_channels", "out_channels") if name == "Conv2d" else ("in_features", "out_features")
            )
            # behind a flatten a channel is several features, of both networks as many
            if mine[fed] * widths[1] != its[fed] * widths[0]:
                return False
            widths = mine[out], its[out]
    return widths[0] == widths[1]


def _copy_channels(mine: WeightedLayer, its: nn.Module, kept: Tensor, heard: Tensor) -> None:
    """Take over the weights of the kept channels, for the channels of the layer before that were kept."""
    assert isinstance(its, WeightedLayer)
    into = its.weight[kept]
    fed = into.shape[1] * len(heard) // mine.weight.shape[1]  # channels of the teacher's layer before
    mine.weight.copy_(into.reshape(len(kept), fed, -1)[:, heard].reshape(mine.weight.shape))
    if mine.bias is not None:
        assert its.bias is not None
        mine.bias.copy_(its.bias[kept])


def _fit(
    small: nn.Sequential, large: nn.Sequential, place: int, kept: Tensor, inputs: Tensor, numbers: Generator
) -> None:
    """Change a layer's weights, no more than needed, so that it says what the teacher's kept channels say."""
    layer = weighted_layer(small, place)

    def wanted(some: Tensor) -> Tensor:
        said: Tensor = large[: place + 1](some)[:, kept]
        return said

    square, towards = normal_equations(layer, small[:place], wanted, inputs, numbers)
    set_rows(layer, as_rows(layer) + solve_ridge(square, towards))
