"""Which class each image of a transfer set is anchored at, and the soft targets drawn for it.

All of it is a function of the image's index, so that any shard can be made alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zskd.config import Targets
from zskd.errors import ZskdError
from zskd.streams import numpy_stream
from zskd.types import Similarity, TargetsArray

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Place:
    """What the plan of a transfer set says about one index."""

    anchor: int
    """The class k whose concentration the target is drawn with."""
    beta: float
    """The scale of that concentration."""
    optimised: bool
    """False for the share of images that stay noise."""


def row_size(count: int, classes: int, config: Targets) -> int:
    """Return how many images one block of class and β holds in a set in the order of rows."""
    return -(-count // (classes * len(config.betas)))


def place(index: int, *, count: int, classes: int, config: Targets, noise_share: float) -> Place:
    """Return the place of one image in the plan.

    Interleaved, the classes come in turn, then the scales, and every K-th group is noise according to
    `noise_share`: every prefix of the set is balanced, and a smaller set is a prefix of a larger one.
    With priors, classes follow an additive recurrence with the golden ratio, whose prefixes hold each
    class in proportion to its prior (up to one or two images).

    Args:
        index: at least 0.
        count: size of the set, which only the order of rows looks at.
        classes: K.
        config: scales, order and priors.
        noise_share: share of images that are not optimised.
    """
    scales = config.betas
    if config.order == "rows":
        block = index // row_size(count, classes, config)
        within = index % row_size(count, classes, config)
        noise = int((within + 1) * noise_share) > int(within * noise_share)
        return Place(block % classes, scales[block // classes % len(scales)], not noise)
    turn = index // classes
    noise_before = int(turn * noise_share)
    noise = int((turn + 1) * noise_share) > noise_before
    beta = scales[(turn - noise_before) % len(scales)]
    if config.priors is None:
        return Place(index % classes, beta, not noise)
    if len(config.priors) != classes:
        raise ZskdError(f"--targets.priors has {len(config.priors)} values for {classes} classes")
    edges = np.cumsum(config.priors)
    anchor = int(np.searchsorted(edges[:-1], (index + 0.5) * _GOLDEN % 1, side="right"))
    return Place(anchor, beta, not noise)


def draw_targets(
    concentration: Similarity, places: list[Place], indices: list[int], *, seed: int, config: Targets
) -> TargetsArray:
    """Draw one target per index: y ~ Dirichlet(β·a_k)  (ZSKD, equations 3 and 4).

    Args:
        concentration: a, one row per class (K, K), its floor included.
        places: class and scale of each index.
        indices: whose random streams are used.
        seed: run seed.
        config: redraws, and whether β is undone again by a second min-max.

    Returns:
        Targets (N, K) float32; every row lies on the simplex.
    """
    drawn = []
    for spot, index in zip(places, indices, strict=True):
        alpha = spot.beta * concentration[spot.anchor]
        if config.rescale_after_beta:
            alpha = (alpha - alpha.min()) / (alpha.max() - alpha.min()) + config.concentration_floor
        drawn.append(_draw(alpha, spot.anchor, config.redraws, numpy_stream(seed, "targets", index)))
    return np.asarray(drawn, dtype=np.float32)


def one_hot(anchors: list[int], classes: int) -> TargetsArray:
    """Return one-hot targets (N, K) float32."""
    return np.eye(classes, dtype=np.float32)[anchors]


def _draw(alpha: np.ndarray, anchor: int, redraws: int, stream: np.random.Generator) -> np.ndarray:
    """One Dirichlet draw; entries with α = 0 are 0."""
    support = np.flatnonzero(alpha > 0)

    def draw() -> np.ndarray:
        target = np.zeros(len(alpha))
        target[support] = stream.dirichlet(alpha[support]) if len(support) > 1 else 1.0
        return target

    return redrawn(draw, anchor, redraws)


def redrawn(draw: Callable[[], np.ndarray], anchor: int, redraws: int) -> np.ndarray:
    """Draw a target until its largest entry is the anchor's.

    After the last redraw the largest entry is swapped into the anchor's place; without redraws the first draw
    is taken as it is.

    Args:
        draw: returns another target (K,) at each call.
        anchor: the class that shall be on top.
        redraws: how often to draw again at most.
    """
    for _ in range(redraws + 1):
        target = draw()
        if target.argmax() == anchor or redraws == 0:
            return target
    largest = int(target.argmax())
    target[[anchor, largest]] = target[[largest, anchor]]
    return target
