"""A bounded pool of images that students receive again: difficult ones, and long unseen ones.

Schaul et al. 2016, arXiv:1511.05952, replay in proportion to the last error; here also to the steps since the
last use. A generator's pool takes all of its images; `distill.replay` keeps the most difficult of any source.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Generator, Tensor, nn

from zskd.core.device import to_device
from zskd.core.levels import from_levels, to_levels
from zskd.core.types import Images

_MOST_BYTES = 2**28
"""Of the images of a pool."""
_LEAST = 1e-6
"""Least divergence, so that every image can be drawn."""


class ImagePool(nn.Module):
    """Images in 256 grey levels, each with the last divergence of the student and the step of its last use.

    The images of a step are drawn without replacement, with a probability in proportion to divergence × steps
    since the last use. It is a module, so that it is saved like one; it stays on the CPU.
    """

    images: Tensor
    divergence: Tensor
    """KL(T ‖ S) of each in nats when it was last shown (size,)."""
    seen: Tensor
    """Step of the last use of each (size,)."""
    made: Tensor
    """Images stored so far, replaced ones included."""
    step: Tensor
    """Number of draws: the step that is going on."""

    def __init__(self, size: int, shape: tuple[int, int, int], box: tuple[float, float]) -> None:
        """Create an empty pool.

        Args:
            size: most images; fewer where they are so large that they would need more than 256 MB.
            shape: channels, height and width of the images.
            box: least and largest pixel value.
        """
        super().__init__()
        size = max(1, min(size, _MOST_BYTES // prod(shape)))
        self._box = box
        self.register_buffer("images", torch.zeros(size, *shape, dtype=torch.uint8))
        self.register_buffer("divergence", torch.zeros(size))
        self.register_buffer("seen", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("made", torch.zeros((), dtype=torch.int64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """Return the number of images in the pool."""
        return min(int(self.made), len(self.images))

    def draw(self, count: int, rng: Generator) -> Tensor:
        """Begin a step and return the rows of its images (count,), or of all where there are fewer.

        Args:
            count: number of images.
            rng: random numbers of this step, on the CPU.
        """
        self.step += 1
        stored = len(self)
        if not min(count, stored):
            return torch.empty(0, dtype=torch.int64)
        age = (self.step - self.seen[:stored]).clamp_min(1)
        weights = self.divergence[:stored].clamp_min(_LEAST) * age
        return torch.multinomial(weights, min(count, stored), generator=rng)

    def read(self, rows: Tensor) -> Images:
        """Return images (N, C, H, W), float32, inside the box."""
        return from_levels(self.images[rows], self._box)

    def add(self, images: Images, keep: Tensor) -> Tensor:
        """Store new images of this step and return their rows (N,); of more than fit, the first are stored.

        Where the pool is full, they replace those of the least divergence.

        Args:
            images: (N, C, H, W), inside the box.
            keep: rows that are not replaced.
        """
        free = torch.arange(len(self), len(self.images))[: len(images)]
        if len(free) < len(images):
            order = self.divergence.index_fill(0, keep, torch.inf).index_fill(0, free, torch.inf)
            easiest = torch.argsort(order, stable=True)[: len(self.images) - len(keep) - len(free)]
            free = torch.cat([free, easiest[: len(images) - len(free)]])
        self._store(free, images[: len(free)], torch.ones(len(free)))
        return free

    def offer(self, images: Images, divergence: Tensor) -> None:
        """Store those images of this step that are more difficult than stored ones, which they replace.

        Args:
            images: (N, C, H, W), inside the box.
            divergence: KL(T ‖ S) of each in nats (N,), at least 0.
        """
        unused = torch.arange(len(self.images)) >= len(self)
        value, place = self.divergence.masked_fill(unused, -1.0).sort(stable=True)
        hard, row = divergence.cpu().sort(descending=True, stable=True)
        most = min(len(hard), len(value))
        better = hard[:most] > value[:most]
        chosen = to_device(row[:most][better], images.device)
        self._store(place[:most][better], images[chosen], hard[:most][better])

    def record(self, rows: Tensor, divergence: Tensor) -> None:
        """Keep how far the student was from the teacher on images that it received in this step.

        Args:
            rows: of the images (N,).
            divergence: KL(T ‖ S) of each in nats (N,).
        """
        self.divergence[rows] = divergence.cpu()
        self.seen[rows] = self.step

    def _store(self, rows: Tensor, images: Images, divergence: Tensor) -> None:
        self.images[rows] = to_levels(images.cpu(), self._box)
        self.divergence[rows] = divergence
        self.seen[rows] = self.step
        self.made += len(rows)
