"""A bounded pool of generated images: the student receives hard ones, and long unseen ones, again."""

from __future__ import annotations

from math import prod

import torch
from torch import Generator, Tensor, nn

from zskd.core.types import Images

_MOST_BYTES = 2**28
"""Of the images of a pool."""
_LEAST = 1e-6
"""Least divergence, so that every image can be drawn."""


class ImagePool(nn.Module):
    """Images in 256 grey levels, each with the last divergence of the student and the step of its last use.

    The next images are drawn without replacement, with a probability in proportion to divergence × steps
    since the last use: hard images and long unseen ones come first. In a full pool, new images replace those
    of the least divergence. It is a module, so that it is saved like one.
    """

    images: Tensor
    divergence: Tensor
    seen: Tensor
    made: Tensor
    """Images added so far, replaced ones included."""

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

    def __len__(self) -> int:
        """Return the number of images in the pool."""
        return min(int(self.made), len(self.images))

    def draw(self, count: int, step: int, rng: Generator) -> Tensor:
        """Return the rows of images to use in a step (count,), or of all where there are fewer.

        Args:
            count: number of images.
            step: number of this step.
            rng: random numbers of this step, on the CPU.
        """
        stored = len(self)
        if not min(count, stored):
            return torch.empty(0, dtype=torch.int64)
        age = (step - self.seen[:stored]).clamp_min(1)
        weights = self.divergence[:stored].clamp_min(_LEAST) * age
        return torch.multinomial(weights, min(count, stored), generator=rng)

    def read(self, rows: Tensor) -> Images:
        """Return images (N, C, H, W), float32, inside the box."""
        low, high = self._box
        return low + self.images[rows].float() * ((high - low) / 255)

    def add(self, images: Images, step: int, keep: Tensor) -> Tensor:
        """Store images (N, C, H, W) and return their rows (N,); of more than fit, the first are stored.

        Args:
            images: inside the box; in use at this step.
            step: its number.
            keep: rows that are not replaced.
        """
        free = torch.arange(len(self), len(self.images))[: len(images)]
        if len(free) < len(images):
            order = self.divergence.index_fill(0, keep, torch.inf).index_fill(0, free, torch.inf)
            easiest = torch.argsort(order, stable=True)[: len(self.images) - len(keep) - len(free)]
            free = torch.cat([free, easiest[: len(images) - len(free)]])
        low, high = self._box
        new = ((images[: len(free)].cpu() - low) * (255 / (high - low))).round().to(torch.uint8)
        self.images[free] = new
        self.divergence[free] = 1.0
        self.seen[free] = step
        self.made += len(free)
        return free

    def record(self, rows: Tensor, divergence: Tensor, step: int) -> None:
        """Store how far the student was from the teacher on images that it received in a step.

        Args:
            rows: of the images (N,).
            divergence: KL(T ‖ S) of each in nats (N,).
            step: number of the step.
        """
        self.divergence[rows] = divergence.cpu()
        self.seen[rows] = step
