"""What is minimised: a sum of named terms, and its gradient with respect to each image.

    CrossEntropy() + 0.5 * config.l2 * SquaredPixels()

A term computes one value per image. The values of a batch are added, not averaged: if no term couples the
images of a batch, the gradient of an image does not depend on the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from reprlib import repr as short
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.core.types import Features, Images, Logits, PerSample, SoftLabels
from zskd.data.transforms import affine_matrices, warp
from zskd.models.batch_statistics import BatchStatistics, by_layer, reading_statistics
from zskd.models.classifier import Classifier
from zskd.models.observation import Kinds, LayerValue, Observation, observe

Memory = dict[Hashable, tuple[Tensor, ...]]
"""What terms keep between the steps of a batch."""


@dataclass(frozen=True)
class ForwardPass:
    """The forward pass of one step: everything that a term may depend on."""

    images: Images
    """The images that are optimised (N, C, H, W); gradients flow to them."""
    inputs: Images
    """The teacher's inputs A(x) (N, C, H, W): the images after a random affine map."""
    logits: Logits
    """The teacher's output (N, K)."""
    targets: SoftLabels
    """y (N, K), which the softmax of the logits at τ should be."""
    tau: float
    """Temperature τ of that softmax."""
    layers: tuple[LayerValue, ...]
    """Inputs of the teacher's layers that the terms read, in order of use."""
    active: Tensor
    """Which lanes hold an image (N,), bool. At the end of a shard the others hold a copy, which a term that
    couples images must leave out."""
    statistics: tuple[BatchStatistics, ...] = ()
    """Of the inputs of the teacher's batch-norm layers over the active lanes, where a term reads them: one
    for each layer, of all its calls together."""
    observed: Observation | None = None
    """The teacher's features, where a term reads them."""
    memory: Memory = field(default_factory=dict)
    """What terms that couple images keep between steps, by keys of their own; empty at the first step of a
    batch."""

    @property
    def features(self) -> Features:
        """The input of the teacher's last linear layer (N, D), for terms that read features.

        Raises:
            ZskdError: no linear map alone determines the teacher's output.
        """
        assert self.observed is not None, "the term does not set reads_features"
        return self.observed.features

    def of_batch(self, value: Tensor) -> PerSample:
        """Return a value of the whole batch, a scalar, as the value of each active image (N,).

        The values of a batch are added: so the term keeps the weight that it has in a paper, where the
        cross-entropy is averaged over the batch and the value is added once.
        """
        return value * self.active.to(value.dtype)

    @cached_property
    def cross_entropy(self) -> PerSample:
        """−Σ_k y_k log softmax(T(A(x))/τ)_k  (N,), in nats."""
        return -(self.targets * F.log_softmax(self.logits / self.tau, dim=1)).sum(1)


class Term(ABC):
    """One summand of an objective, with one value per image."""

    couples: ClassVar[bool] = False
    """Whether the value of an image depends on the other images of its batch. If so, all images of a batch
    take the same steps, an image can only be made together with its shard, and a smaller set is no prefix of
    a larger one."""

    teacher_layers: ClassVar[Kinds] = ()
    """Kinds of the teacher's layers whose inputs the term reads, in `forward.layers`."""

    reads_statistics: ClassVar[bool] = False
    """Whether the term reads `forward.statistics`, which cost less than the inputs of all layers."""

    reads_features: ClassVar[bool] = False
    """Whether the term reads `forward.features`."""

    @abstractmethod
    def __call__(self, forward: ForwardPass) -> PerSample:
        """Return the value of each image (N,), differentiable with respect to `forward.images`."""

    @final
    def __add__(self, other: Term | Objective) -> Objective:
        return Objective(((1.0, self),)) + other

    @final
    def __rmul__(self, weight: float) -> Objective:
        return Objective(((float(weight), self),))


@final
@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms."""

    terms: tuple[tuple[float, Term], ...] = ()
    """Weight and term."""

    def __add__(self, other: Term | Objective) -> Objective:
        more = other.terms if isinstance(other, Objective) else ((1.0, other),)
        return Objective(self.terms + more)

    def __rmul__(self, weight: float) -> Objective:
        return Objective(tuple((weight * own, term) for own, term in self.terms))

    @property
    def couples(self) -> bool:
        """Whether any term couples the images of a batch."""
        return any(term.couples for _, term in self.terms)

    @property
    def teacher_layers(self) -> Kinds:
        """Kinds of the teacher's layers whose inputs any term reads."""
        return tuple(dict.fromkeys(kind for _, term in self.terms for kind in term.teacher_layers))

    @property
    def reads_statistics(self) -> bool:
        """Whether any term reads the statistics of the teacher's batch-norm layers."""
        return any(term.reads_statistics for _, term in self.terms)

    @property
    def reads_features(self) -> bool:
        """Whether any term reads the teacher's features."""
        return any(term.reads_features for _, term in self.terms)

    def values(self, forward: ForwardPass) -> dict[str, PerSample]:
        """Return the weighted value of each term for each image (N,), by the name of the term's class."""
        found: dict[str, PerSample] = {}
        for weight, term in self.terms:
            value, name = term(forward), type(term).__name__
            if not isinstance(value, Tensor):
                raise ZskdError(f"the term {name} returned {short(value)}: it must return a tensor")
            if value.shape != forward.images.shape[:1]:  # a mean of the batch would depend on its size
                raise ZskdError(
                    f"the term {name} returned values of shape {tuple(value.shape)}: it must return one for "
                    f"each image, {tuple(forward.images.shape[:1])}"
                )
            found[name] = found.get(name, 0) + (value if weight == 1 else weight * value)
        return found


def as_objective(found: object) -> Objective:
    """Return what the `objective` of a method returned; a term alone has weight 1.

    Raises:
        ZskdError: it is something else.
    """
    if isinstance(found, Objective | Term):
        return Objective() + found
    raise ZskdError(
        f"the objective of the method is {short(found)}: return a sum of terms, such as match_targets(config)"
    )


@final
@dataclass(frozen=True)
class CrossEntropy(Term):
    """CE(y, softmax(T(A(x))/τ))  (ZSKD, equation 5, with the random maps A of Athalye et al. 2018)."""

    def __call__(self, forward: ForwardPass) -> PerSample:
        """Return the cross-entropy of each image (N,), in nats."""
        return forward.cross_entropy


@final
@dataclass(frozen=True)
class SquaredPixels(Term):
    """|x|², the sum of the squared pixels (the reproduction's penalty)."""

    def __call__(self, forward: ForwardPass) -> PerSample:
        """Return the sum for each image (N,)."""
        return forward.images.square().sum((1, 2, 3))


def match_targets(config: SynthesisConfig) -> Objective:
    """Return CE(y, softmax(T(A(x))/τ)) + l2/2·|x|², which the objectives of all methods begin with."""
    objective = 1 * CrossEntropy()
    return objective + config.l2 / 2 * SquaredPixels() if config.l2 else objective


def divergence_and_gradient(
    teacher: Classifier,
    objective: Objective,
    images: Images,
    targets: SoftLabels,
    warps: Tensor | None,
    active: Tensor,
    config: SynthesisConfig,
    memory: Memory | None = None,
    *,
    holding: int | None = None,
) -> tuple[PerSample, Images]:
    """Return the divergence of the teacher's outputs from their targets, and the gradient of the objective.

    Args:
        teacher: frozen.
        objective: what is minimised.
        images: (N, C, H, W).
        targets: (N, K).
        warps: six numbers of U(0, 1) per image (N, 6); None: the teacher receives the images as they are.
        active: lanes that hold an image (N,).
        config: temperature and random maps.
        memory: of the batch, which terms may change; None: this is its only step.
        holding: how many lanes are active; None: it is read from the device.

    Returns:
        KL(y ‖ softmax(T(A(x))/τ)) in nats (N,), and the gradient (N, C, H, W).
    """
    leaf = images.detach().requires_grad_(True)
    with torch.enable_grad():
        inputs = leaf
        if warps is not None:
            inputs = warp(leaf, affine_matrices(warps, config.warp, *leaf.shape[2:]), teacher.spec.box[0])
        forward = _forward(
            teacher, objective, leaf, inputs, targets, active, config, memory=memory, holding=holding
        )
        loss = torch.stack([value.sum() for value in objective.values(forward).values()]).sum()
        # terms of the pixels alone would give a gradient, and images that owe the teacher nothing
        reached = loss.requires_grad and forward.logits.requires_grad
        found = torch.autograd.grad(loss, leaf, allow_unused=True) if reached else (None,)
    if (gradient := found[0]) is None:
        raise ZskdError(
            "synthesis: no gradient reaches the images, because the teacher's forward pass runs without any: "
            "take torch.no_grad and detach out of it, or give --method noise"
        )
    return forward.cross_entropy.detach() - torch.special.entr(targets).sum(1), gradient


def objective_value(
    teacher: Classifier, objective: Objective, images: Images, targets: SoftLabels, config: SynthesisConfig
) -> float:
    """Return the mean of an objective over a batch of images, as they are.

    Args:
        teacher: frozen.
        objective: any.
        images: (N, C, H, W).
        targets: (N, K).
        config: temperature.
    """
    active = torch.ones(len(images), dtype=torch.bool, device=images.device)
    with torch.no_grad():
        forward = _forward(teacher, objective, images, images, targets, active, config, holding=len(images))
        return float(torch.stack([value.mean() for value in objective.values(forward).values()]).sum())


def _forward(
    teacher: Classifier,
    objective: Objective,
    images: Images,
    inputs: Images,
    targets: SoftLabels,
    active: Tensor,
    config: SynthesisConfig,
    *,
    memory: Memory | None = None,
    holding: int | None = None,
) -> ForwardPass:
    """Run the teacher once on `inputs`, which are `images` or random maps of them, in its fastest form that
    still shows what the terms read.
    """
    with ExitStack() as reading:
        found: list[BatchStatistics] = []
        if objective.reads_statistics:
            holding = int(active.sum()) if holding is None else holding
            rows = None
            if holding < len(active):  # a mask would be read from the device by each layer
                rows = active.int().argsort(descending=True, stable=True)[:holding]
            found = reading.enter_context(reading_statistics(teacher, rows))
        observed = observe(
            teacher, inputs, inputs_of=objective.teacher_layers, with_features=objective.reads_features
        )
    return ForwardPass(
        images,
        inputs,
        observed.logits,
        targets,
        config.tau,
        observed.layers,
        active,
        tuple(by_layer(found)),
        observed,
        {} if memory is None else memory,
    )
