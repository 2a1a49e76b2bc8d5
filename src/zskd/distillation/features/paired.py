"""The feature losses of a training: which layers are read in both networks, and what is compared."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from zskd.config.distillation import FeaturesConfig
from zskd.core.errors import ZskdError, one_line
from zskd.core.memory import at_once
from zskd.core.types import Images, Logits
from zskd.distillation.batch_norm import by_batch
from zskd.distillation.features.base import FeatureLoss, FeatureMaps, feature_loss
from zskd.distillation.features.pairing import pair_layers
from zskd.models.classifier import Classifier
from zskd.models.factory import fresh_weights
from zskd.models.modes import frozen
from zskd.models.observation import observe
from zskd.models.stages import Grid, Stage
from zskd.training.losses import checked_loss


@dataclass(frozen=True)
class Pair:
    """A stage of the student and a stage of the teacher."""

    student: Stage
    teacher: Stage

    @property
    def grid(self) -> Grid:
        """Height and width at which they are compared: the smaller ones."""
        (height, width), (other_height, other_width) = self.student.grid, self.teacher.grid
        return min(height, other_height), min(width, other_width)

    def __str__(self) -> str:
        return f"{self.student} with {self.teacher}"


class PairedFeatures:
    """The pairs of stages of a training, with one loss for each.

    Attributes:
        pairs: in the order of the student's stages.
        losses: one `FeatureLoss` for each pair, with the weights that are trained beside the student's.
    """

    def __init__(self, pairs: list[Pair], losses: nn.ModuleList) -> None:
        self.pairs, self.losses = pairs, losses

    @property
    def begins(self) -> bool:
        """Whether `begin` has anything to do."""
        return bool(self._beginning())

    def begin(self, teacher: Classifier, student: Classifier, images: Images, rng: Generator) -> None:
        """Let those losses look at features of both networks that want to.

        Args:
            teacher: in evaluation mode.
            student: its batch-norm normalises by the batch here, as in training.
            images: (N, C, H, W) in [0, 1].
            rng: for random numbers.
        """
        beginning = self._beginning()
        with torch.no_grad(), frozen(teacher, student), by_batch(student):
            ours = _run(student, images, [pair.student for pair, _ in beginning])[1]
            theirs = _run(teacher, images, [pair.teacher for pair, _ in beginning])[1]
            for (pair, loss), one, other in zip(beginning, ours, theirs, strict=True):
                loss.begin(pooled(one, pair.grid), pooled(other, pair.grid), rng)

    def of_teacher(self, teacher: Classifier, images: Images, most: int) -> tuple[Logits, list[Tensor]]:
        """Return logits (N, K) and what each loss compares, without gradients.

        Args:
            teacher: in evaluation mode.
            images: (N, C, H, W) in [0, 1].
            most: images in one forward pass; of images larger than 64×64 pixels, there are fewer.
        """
        stages = [pair.teacher for pair in self.pairs]
        with torch.no_grad():
            parts = [_run(teacher, part, stages) for part in torch.split(images, at_once(most, images.shape))]
            logits = torch.cat([part[0] for part in parts])
            whole = [torch.cat(maps) for maps in zip(*(part[1] for part in parts), strict=True)]
            compared = [
                loss.of_teacher(pooled(maps, pair.grid))
                for pair, loss, maps in zip(self.pairs, self._losses(), whole, strict=True)
            ]
        return logits, compared

    def of_student(self, student: Classifier, images: Images) -> tuple[Logits, list[Tensor]]:
        """Return logits (N, K) and what each loss compares, differentiable."""
        logits, maps = _run(student, images, [pair.student for pair in self.pairs])
        return logits, [
            loss.of_student(pooled(one, pair.grid))
            for pair, loss, one in zip(self.pairs, self._losses(), maps, strict=True)
        ]

    def distance(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Return the sum over all pairs of what `of_student` and `of_teacher` returned, a scalar."""
        found = [
            checked_loss(
                loss.distance(s, t), f"the distance of {type(loss).__name__}", learns=s.requires_grad
            )
            for loss, s, t in zip(self._losses(), student, teacher, strict=True)
        ]
        return torch.stack(found).sum()

    def bytes_of_teacher(self, images: int) -> int:
        """Return how many bytes the teacher's paired features of so many images take."""
        values = (pair.teacher.channels * pair.grid[0] * pair.grid[1] for pair in self.pairs)
        return 4 * images * sum(values)

    def _beginning(self) -> list[tuple[Pair, FeatureLoss]]:
        return [(pair, loss) for pair, loss in zip(self.pairs, self._losses(), strict=True) if loss.begins]

    def _losses(self) -> list[FeatureLoss]:
        return [loss for loss in self.losses if isinstance(loss, FeatureLoss)]


def pair_features(
    teacher: Classifier, student: Classifier, config: FeaturesConfig, *, seed: int
) -> PairedFeatures | None:
    """Pair the stages of student and teacher; None where the loss has no weight, or no stages are the `same`.

    Args:
        teacher: left as it is.
        student: on the same device; left as it is.
        config: loss, weight, and layers to pair.
        seed: of the initial weights of the losses.

    Raises:
        ZskdError: nothing pairs, or the loss is no feature loss or cannot be made.
    """
    if not config.weight:
        return None
    kind = feature_loss(config.loss)
    with frozen(teacher, student):
        found = pair_layers(teacher, student, config.layers, needs_places=kind.needs_places)
    if not found:
        return None
    pairs = [Pair(ours, theirs) for ours, theirs in found]

    def build() -> nn.ModuleList:
        return nn.ModuleList(kind(pair.student.channels, pair.teacher.channels) for pair in pairs)

    try:
        losses = fresh_weights(build, seed).to(student.device)
    except TypeError as error:  # an abstract class, or one that takes other arguments
        raise ZskdError(f"--distill.features.loss {config.loss} cannot be made: {one_line(error)}") from error
    return PairedFeatures(pairs, losses)


def pooled(maps: FeatureMaps, grid: Grid) -> FeatureMaps:
    """Return feature maps (N, C, h, w), averaged to height and width `grid`, or as they are."""
    return maps if maps.shape[2:] == grid else F.adaptive_avg_pool2d(maps, grid)


def _run(
    classifier: Classifier, images: Images, stages: Collection[Stage]
) -> tuple[Logits, list[FeatureMaps]]:
    """Return logits and the feature maps of stages, in float32."""
    names = {stage.name for stage in stages}
    observed = observe(classifier, images, outputs_named=names, with_features=False)
    values: dict[str, list[Tensor]] = {}
    for layer in observed.layers:
        values.setdefault(layer.name, []).append(layer.value)
    return observed.logits, [stage.maps(values[stage.name][stage.call]).float() for stage in stages]
