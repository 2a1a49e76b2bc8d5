"""Soft targets drawn from Dirichlet distributions (ZSKD, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from zskd.config.targets import TargetsConfig
from zskd.core.rng import numpy_stream
from zskd.core.types import Similarity, TargetsArray
from zskd.synthesis.plan import PlanEntry


def draw_targets(
    concentration: Similarity, entries: Sequence[PlanEntry], config: TargetsConfig, *, seed: int
) -> TargetsArray:
    """Draw one target per image: y ~ Dirichlet(β·a_k)  (ZSKD, equations 3 and 4).

    Args:
        concentration: a, one row per class (K, K), its floor included.
        entries: the plan: index, class k and scale β of each image.
        config: redraws, and whether a second min-max undoes β.
        seed: of the set.

    Returns:
        Targets (N, K) float32; every row lies on the simplex.
    """
    drawn = []
    for entry in entries:
        alpha = entry.beta * concentration[entry.anchor]
        if config.rescale_after_beta:
            alpha = (alpha - alpha.min()) / (alpha.max() - alpha.min()) + config.concentration_floor
        stream = numpy_stream(seed, "targets", entry.index)
        drawn.append(redrawn(partial(_draw, alpha, stream), entry.anchor, config.redraws))
    return np.asarray(drawn, dtype=np.float32)


def one_hot(anchors: list[int], classes: int) -> TargetsArray:
    """Return one-hot targets (N, K), float32.

    Args:
        anchors: the class of each target (N,), 0 to K − 1.
        classes: K.
    """
    return np.eye(classes, dtype=np.float32)[anchors]


def _draw(alpha: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """One Dirichlet draw; entries with α = 0 are 0."""
    support = np.flatnonzero(alpha > 0)
    target = np.zeros(len(alpha))
    target[support] = stream.dirichlet(alpha[support]) if len(support) > 1 else 1.0
    return target


def redrawn(draw: Callable[[], np.ndarray], anchor: int, redraws: int) -> np.ndarray:
    """Draw a target until its largest entry is the anchor's.

    If the last redraw fails too, the largest entry and the anchor's are swapped. Without redraws, the first
    draw is returned as it is.

    Args:
        draw: returns another target (K,) at each call.
        anchor: the class that should have the largest entry.
        redraws: most additional draws.
    """
    for _ in range(redraws + 1):
        target = draw()
        if target.argmax() == anchor or redraws == 0:
            return target
    largest = int(target.argmax())
    target[[anchor, largest]] = target[[largest, anchor]]
    return target
