"""A memory of the images on which the student differed most from the teacher, shown again in later batches.

Schaul et al. 2016, arXiv:1511.05952, replay what had the largest error, in proportion to it. Here a bounded
memory keeps the largest divergences, and replays all of its images alike.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from zskd.core.types import Images


class Memory(nn.Module):
    """Images in 256 levels and their last divergence: a module, so that it is saved like one.

    Args:
        size: largest number of images.
        shape: channels, height and width.
        box: least and largest pixel value.
    """

    stored: Tensor
    """(size, C, H, W), uint8."""
    divergence: Tensor
    """Of each image when it was last shown (size,); −1 for a free place."""
    shown: Tensor
    """Places of the images of the current batch that are from here (N,)."""

    def __init__(self, size: int, shape: tuple[int, int, int], box: tuple[float, float]) -> None:
        super().__init__()
        self._box = box
        self.register_buffer("stored", torch.zeros(size, *shape, dtype=torch.uint8))
        self.register_buffer("divergence", torch.full((size,), -1.0))
        self.register_buffer("shown", torch.empty(0, dtype=torch.int64), persistent=False)

    def draw(self, count: int, rng: Generator) -> Images:
        """Return images, each as likely as any other (count, C, H, W); none from an empty memory."""
        places = (self.divergence >= 0).nonzero()[:, 0]
        chosen = torch.randint(len(places), (count,), generator=rng) if len(places) else torch.empty(0).long()
        self.shown = places[chosen.to(places.device)]
        low, high = self._box
        return low + self.stored[self.shown].float() * ((high - low) / 255)

    def note(self, images: Images, divergence: Tensor, drawn: slice) -> None:
        """Keep the most difficult of the stored images and of those of a batch.

        Args:
            images: of the batch, before their augmentation (N, C, H, W).
            divergence: of each (N,), at least 0.
            drawn: which of them `draw` returned for this batch; they get a new divergence.
        """
        self.divergence[self.shown] = divergence[drawn]
        new = torch.ones(len(images), dtype=torch.bool, device=images.device)
        new[drawn] = False
        value, place = self.divergence.sort(stable=True)
        hard, row = divergence[new].sort(descending=True, stable=True)
        most = min(len(hard), len(value))
        # the hardest new image takes the place of the easiest stored one, as long as it is harder
        better = hard[:most] > value[:most]
        to, row = place[:most][better], row[:most][better]
        low, high = self._box
        levels = (images[new][row] - low) * (255 / (high - low))
        self.stored[to], self.divergence[to] = levels.round().to(torch.uint8), hard[:most][better]
