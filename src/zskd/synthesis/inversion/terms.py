"""Further terms of an objective: what a teacher knows of its data, and what natural images have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.core.types import PerSample
from zskd.models.batch_statistics import BatchStatistics, no_batch_norm
from zskd.models.classifier import Classifier
from zskd.synthesis.inversion.objective import ForwardPass, Term

Scale = Literal["absolute", "relative", "mean"]
"""How the differences of a layer are measured, and whether layers are added or averaged."""


@final
@dataclass(frozen=True)
class BatchNormStatistics(Term):
    """Σ_l ‖μ̂_l − μ_l‖₂ + ‖σ̂²_l − σ²_l‖₂ over the teacher's batch-norm layers  (DeepInversion, equation 4).

    μ̂ and σ̂² are mean and variance over all images of the batch and all positions, μ and σ² the running
    statistics. So a batch must be large, and a last batch of few images is matched less well. Every image of
    the batch has this one value, and weights mean what they mean in the paper (`ForwardPass.of_batch`).

    Yin et al.: "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020,
    arXiv:1912.08795.
    """

    couples: ClassVar[bool] = True
    reads_statistics: ClassVar[bool] = True

    scale: Scale = "absolute"
    """absolute: the paper's sum. relative: means are divided by σ_l, variances by σ²_l, and both norms by the
    root of the number of channels, so that no layer counts for its scale or its width. mean: as relative, and
    the mean of the layers instead of their sum, so that a weight fits networks of any depth."""
    first_layer: float = 1.0
    """Weight of the first layer; the others have 1. The authors' program for ImageNet has 10."""
    momentum: float = 0.0
    """Share of the earlier steps in μ̂ and σ̂², which are moving averages then; 0 to less than 1. Fang et al.
    2022 (arXiv:2112.15278) have 0.9, for a generator."""

    def __call__(self, forward: ForwardPass) -> PerSample:
        """Return the sum for each active image (N,).

        Raises:
            ZskdError: the teacher has no batch-norm layer.
        """
        if not forward.statistics:
            raise no_batch_norm(type(self).__name__)
        total = forward.active.new_zeros((), dtype=torch.float32)
        for number, layer in enumerate(forward.statistics):
            distance = self._distance(layer, *self._averaged(layer, number, forward))
            total = total + (distance if number else self.first_layer * distance)
        if self.scale == "mean":
            total = total / (self.first_layer + len(forward.statistics) - 1 or 1.0)
        return forward.of_batch(total)

    def _averaged(self, layer: BatchStatistics, number: int, forward: ForwardPass) -> tuple[Tensor, Tensor]:
        """Return μ̂ and σ̂² with their share of the earlier steps, through which no gradient flows."""
        found = layer.mean, layer.var
        if not self.momentum:
            return found
        earlier = forward.memory.get((self, number), tuple(value.detach() for value in found))
        mean, var = (torch.lerp(new, old, self.momentum) for new, old in zip(found, earlier, strict=True))
        forward.memory[self, number] = mean.detach(), var.detach()
        return mean, var

    def _distance(self, layer: BatchStatistics, mean: Tensor, var: Tensor) -> Tensor:
        of_mean, of_var = mean - layer.running_mean, var - layer.running_var
        if self.scale != "absolute":
            known = layer.running_var + _EPSILON
            channels = len(known) ** 0.5
            of_mean, of_var = of_mean / (known.sqrt() * channels), of_var / (known * channels)
        distance: Tensor = torch.linalg.vector_norm(of_mean) + torch.linalg.vector_norm(of_var)
        return distance


_EPSILON = 1e-5
"""Added to running variances before they divide, as in a batch-norm: channels may be dead."""


@final
@dataclass(frozen=True)
class TotalVariation(Term):
    """Mean of |x_i − x_j|^p over horizontal and vertical neighbours, for pixels in [0, 1].

    A mean, so that a weight does not depend on the size of an image. DeepInversion's program adds norms over
    the whole batch, with diagonal neighbours; those couple the images of a batch, this term does not.
    """

    power: Literal[1, 2] = 1
    """p. 1 keeps edges, 2 makes them smooth."""

    def __call__(self, forward: ForwardPass) -> PerSample:
        """Return the mean for each image (N,)."""
        images = forward.images
        across, down = (images.diff(dim=side).abs() for side in (3, 2))
        if self.power == 2:
            across, down = across.square(), down.square()
        pairs = max(1, across[0].numel() + down[0].numel())
        return (across.sum((1, 2, 3)) + down.sum((1, 2, 3))) / pairs


@final
@dataclass(frozen=True)
class PixelNorm(Term):
    """‖x‖₂, the length of an image as a vector: DeepInversion's l2.

    `SquaredPixels` is its square. The gradient of a norm has the same length for all images; that of the
    square grows with the image.
    """

    def __call__(self, forward: ForwardPass) -> PerSample:
        """Return the norm of each image (N,)."""
        norms: PerSample = torch.linalg.vector_norm(forward.images, dim=(1, 2, 3))
        return norms


@final
@dataclass(frozen=True, eq=False)
class Disagreement(Term):
    """1 − JS(softmax(T(A(x))/τ), softmax(S(A(x))/τ)): small where a student disagrees.

    Adaptive DeepInversion, equations 7 and 8 (arXiv:1912.08795). JS is the Jensen–Shannon divergence in nats,
    at most log 2.
    """

    student: Callable[[torch.device], Classifier]
    """Returns the student, frozen, on a device."""
    tau: float = 3.0
    """Temperature τ of both outputs; 3 in the authors' program."""

    def __call__(self, forward: ForwardPass) -> PerSample:
        """Return 1 − JS for each image (N,)."""
        of_student = F.log_softmax(self.student(forward.inputs.device)(forward.inputs) / self.tau, dim=1)
        of_teacher = F.log_softmax(forward.logits / self.tau, dim=1)
        middle = torch.logaddexp(of_student, of_teacher) - _LOG2
        return 1 - (_divergence(of_teacher, middle) + _divergence(of_student, middle)) / 2


_LOG2 = torch.log(torch.tensor(2.0)).item()


def _divergence(of: Tensor, to: Tensor) -> PerSample:
    """Return KL(of ‖ to) of logarithms (N, K) for each row (N,)."""
    return (of.exp() * (of - to)).sum(1)


@final
@dataclass(frozen=True)
class ClassPrior(Term):
    """−H(mean over the batch of softmax(T(A(x))/τ)): small where the batch has all classes equally often.

    The information entropy term of Chen et al. 2019 (DAFL, arXiv:1904.01186). For images without
    targets: with targets, the plan of a set gives each class its share already.
    """

    couples: ClassVar[bool] = True

    def __call__(self, forward: ForwardPass) -> PerSample:
        """Return Σ_k p̄_k log p̄_k for each active image (N,), in nats, from −log K to 0."""
        outputs = F.softmax(forward.logits[forward.active] / forward.tau, dim=1)
        # the logarithm of a class that no image has would have no finite gradient
        of_classes = outputs.mean(0).clamp_min(torch.finfo(outputs.dtype).tiny)
        return forward.of_batch(-torch.special.entr(of_classes).sum())


@final
@dataclass(frozen=True)
class FeatureNorm(Term):
    """−mean |f| of the features before the last layer: small where they are large, as for real images.

    The activation term of Chen et al. 2019 (DAFL), divided by the number of features.
    """

    reads_features: ClassVar[bool] = True

    def __call__(self, forward: ForwardPass) -> PerSample:
        """Return −mean |f| for each image (N,).

        Raises:
            ZskdError: the teacher has no features.
        """
        return -forward.features.abs().mean(1)
