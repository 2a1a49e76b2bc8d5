"""The random numbers of a data impression: its start image, and the random maps of each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zskd.core.rng import numpy_stream
from zskd.core.types import Images
from zskd.data.drawn import draw_start_images


def draw_initial(
    kind: str,
    indices: Sequence[int],
    *,
    seed: int,
    shape: tuple[int, int, int],
    box: tuple[float, float],
    candidate: int = 0,
) -> Images:
    """Return one start image per index (N, C, H, W) float32, each from the index's own random stream.

    Args:
        kind: a name of `START_IMAGES`, or the user's own code.
        indices: of the images.
        seed: of the set.
        shape: channels, height and width.
        box: least and largest pixel value.
        candidate: which of the start images that an index has.

    Raises:
        ZskdError: unknown kind, or code that returns another shape or type.
    """
    purpose = f"start {candidate}" if candidate else "start"
    streams = [numpy_stream(seed, purpose, index) for index in indices]
    return draw_start_images(kind, streams, shape, box, option="--synthesis.start")


def draw_warps(indices: Sequence[int], steps: int, *, seed: int) -> Tensor:
    """Return six numbers of U(0, 1) for the random map of every step of each index (N, steps, 6)."""
    streams = (numpy_stream(seed, "warp", index) for index in indices)
    return torch.from_numpy(np.stack([stream.random((steps, 6), dtype=np.float32) for stream in streams]))
