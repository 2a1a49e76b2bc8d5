"""Soft targets computed from features of the penultimate layer, which are drawn from normal distributions.

Zi Wang: "Data-Free Knowledge Distillation with Soft Targeted Transfer Set Synthesis", AAAI 2021,
arXiv:2104.04868. Built from the idea of the paper, which we have not read in full and which has no public
code; docs/methods/soft_targeted.md lists what is known of it and what was decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import numpy as np
import torch
from scipy.special import logit, softmax

from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.errors import ZskdError
from zskd.core.passes import uncounted
from zskd.core.rng import numpy_stream
from zskd.core.types import ClassValues, ClassVectors, TargetsArray
from zskd.models.classifier import Classifier
from zskd.synthesis.dirichlet import redrawn
from zskd.synthesis.inversion.initial import draw_initial
from zskd.synthesis.inversion.objective import Objective, match_targets
from zskd.synthesis.methods.base import OF_DIRICHLET, Method
from zskd.synthesis.plan import PlanEntry

_CONFIDENCE = 0.95
"""Least probability of class k for the mean features of class k. The last layer does not determine the length
of features; this constant does."""
_PROBES = 16
"""Random images on which it is tested whether features can be negative."""


@final
@dataclass(frozen=True, kw_only=True)
class SoftTargeted(Method):
    """Targets y = softmax(W f + b) of features f drawn for the anchor class k of each image.

    Of the shared settings, only `redraws` has an effect: how often a target whose largest entry is not its
    class is drawn again. β and the concentration belong to Dirichlet distributions.
    """

    spread: float = 1.0
    """Standard deviation of the features, in multiples of the root mean square of the classes' means, at
    least 0. At 0 all targets of a class are the same."""

    def __post_init__(self) -> None:
        """Refuse a negative spread."""
        super().__post_init__()
        self.check_range("spread", low=0)

    ignores: ClassVar[frozenset[str]] = OF_DIRICHLET - {"targets.redraws"}

    def targets(
        self, teacher: Classifier, entries: Sequence[PlanEntry], config: TargetsConfig, *, seed: int
    ) -> TargetsArray:
        """Draw the targets (N, K), float32.

        Raises:
            ZskdError: the last layer does not allow such features.
        """
        model = feature_model(teacher)
        drawn = []
        for entry in entries:
            stream = numpy_stream(seed, "features", entry.index)
            draw = partial(model.draw, entry.anchor, self.spread, stream)
            drawn.append(redrawn(draw, entry.anchor, config.redraws))
        return np.asarray(drawn, dtype=np.float32)

    def check_teacher(self, teacher: Classifier) -> None:
        """Refuse a teacher whose last layer does not allow such features.

        Raises:
            ZskdError: as `feature_model` does.
        """
        feature_model(teacher)

    def objective(self, config: SynthesisConfig) -> Objective:
        """Return the cross-entropy with the target at τ, and the penalty of `config`."""
        return match_targets(config)


@dataclass(frozen=True)
class FeatureModel:
    """Normal distributions of the features of each class, computed from the last layer alone.

    The classes share one covariance matrix, which is `unit`² times the correlation of the units: two units
    are as correlated as their weights are over the classes.
    """

    weight: ClassVectors
    """W (K, D), minus its mean over the classes, which no softmax output depends on."""
    bias: ClassValues
    """b (K,); zeros where the layer has none."""
    means: ClassVectors
    """μ (K, D), along the class vectors."""
    loadings: ClassVectors
    """L (K, D): the correlation of the units is LᵀL, of rank K − 1 at most."""
    rectified: bool
    """Whether features cannot be negative; then negative drawn features are set to 0."""

    @property
    def unit(self) -> float:
        """Standard deviation of every feature at a spread of 1: the root of the mean square of all means."""
        return float(np.sqrt(np.square(self.means).mean()))

    def draw(self, anchor: int, spread: float, stream: np.random.Generator) -> ClassValues:
        """Return the teacher's softmax output (K,), at τ = 1, for features drawn for a class.

        Args:
            anchor: the class k.
            spread: standard deviation in multiples of `unit`.
            stream: random numbers; K are drawn from it.
        """
        noise = stream.standard_normal(len(self.loadings)) @ self.loadings
        features = self.means[anchor] + spread * self.unit * noise
        if self.rectified:
            features = np.maximum(features, 0)
        return np.asarray(softmax(self.weight @ features + self.bias))


def feature_model(teacher: Classifier) -> FeatureModel:
    """Compute the distributions of features from the teacher's last layer.

    Raises:
        ZskdError: weights are not finite, or a class has the largest logit at no length of its mean.
    """
    weight = teacher.head_weight.numpy().astype(np.float64)
    bias = teacher.head_bias.numpy().astype(np.float64)
    if not np.isfinite(weight).all() or not np.isfinite(bias).all():
        raise ZskdError(
            "the weights of the teacher's last layer are not finite: give another teacher, or name its head "
            "where it is opened (--head of zskd run and teacher import)"
        )
    weight = weight - weight.mean(axis=0)
    rectified = _features_are_rectified(teacher)
    directions = np.maximum(weight, 0) if rectified else weight
    lengths = np.linalg.norm(weight, axis=0)
    return FeatureModel(
        weight=weight,
        bias=bias,
        means=_lengths(directions, weight, bias)[:, None] * directions,
        loadings=weight / np.where(lengths > 0, lengths, 1),
        rectified=rectified,
    )


def _lengths(directions: ClassVectors, weight: ClassVectors, bias: ClassValues) -> ClassValues:
    """Return the length of each class's mean along its direction d_k (K,).

    A class whose logit exceeds each of the K − 1 others by log((K − 1)·c / (1 − c)) has a probability of at
    least c.
    """
    classes = len(weight)
    scores = directions @ weight.T
    own = scores.diagonal()
    found = np.zeros(classes)
    for k in range(classes):
        others = np.arange(classes) != k
        gains = own[k] - scores[k, others]
        if gains.min() <= 1e-9 * own.max():
            raise ZskdError(
                f"--method soft_targeted: along the class vector of class {k}, the logit of another class is "
                "at least as large: give --method zskd or class_impressions"
            )
        leads = np.log(classes - 1) + logit(_CONFIDENCE) + bias[others] - bias[k]
        found[k] = max(0.0, (leads / gains).max())
    return found


def _features_are_rectified(teacher: Classifier) -> bool:
    """Whether no feature of some random images is negative.

    Testing features instead of layers also finds a ReLU that is no layer, or that is followed by pooling or
    dropout.
    """
    images = draw_initial(
        "uniform", list(range(_PROBES)), seed=0, shape=teacher.spec.shape, box=teacher.spec.box
    )
    with torch.no_grad(), uncounted():
        return bool((teacher.features(images.to(teacher.device)) >= 0).all())
