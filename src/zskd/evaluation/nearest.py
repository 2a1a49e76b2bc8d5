"""Distances from images to the nearest impression of a transfer set, in pixels and in the teacher's features.

An impression that repeats a training image is nearer to it than impressions are to images that nobody was
trained on (Chen et al. 2020, "GAN-Leaks", arXiv:1909.03935, section 4.3). So the distances to other images
are the control.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from zskd.core.errors import ZskdError
from zskd.core.memory import at_once
from zskd.core.types import OfOneBatch
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.transfer_set.dataset import TransferSet

_BATCH = 500
"""Impressions that are compared at once, fewer of large ones."""
PIXELS, FEATURES = "pixels", "features"


class NearestImpressions:
    """Finds the distance from an image to the nearest impression of a set.

    Args:
        impressions: the set.
        teacher: for distances in its features; not changed. None, or a network without a last linear map:
            only those in pixels.
        shape: channels, height and width of the images to come.

    Raises:
        ZskdError: the images of the set have another shape.
    """

    def __init__(
        self, impressions: TransferSet, teacher: Classifier | None, shape: tuple[int, int, int]
    ) -> None:
        if impressions.shape != shape:
            raise ZskdError(
                f"{impressions.folder} holds images of {impressions.shape} and the student takes {shape}: "
                "give the set that it was trained on"
            )
        self._impressions, self._teacher = impressions, teacher
        self._size = at_once(_BATCH, impressions.shape)
        self._features: Tensor | None = None
        if teacher is not None:
            parts = [_features(teacher, part) for part in self._parts()]
            known = [part for part in parts if part is not None]
            self._features = torch.cat(known) if len(known) == len(parts) else None

    def distances(self, images: OfOneBatch) -> dict[str, Tensor]:
        """Return the distance of each image to the nearest impression (n,), by measure.

        `pixels` is the root of the mean squared difference, 0 to 1; `features` is Euclidean.

        Args:
            images: (n, C, H, W) in [0, 1], of the shape of the impressions; on any device.
        """
        images = images.to("cpu", torch.float32)  # as the impressions
        flat, scale = images.flatten(1), images[0].numel() ** 0.5
        found = {PIXELS: torch.full((len(images),), torch.inf)}
        for part in self._parts():
            found[PIXELS] = torch.minimum(found[PIXELS], _nearest(flat, part.flatten(1)) / scale)
        own = None if self._teacher is None else _features(self._teacher, images)
        if own is not None and self._features is not None:
            found[FEATURES] = _nearest(own, self._features)
        return found

    def _parts(self) -> Iterator[Tensor]:
        return (part for shard in self._impressions for part in torch.split(shard.images, self._size))


def _features(teacher: Classifier, images: OfOneBatch) -> Tensor | None:
    """Return features (n, D) on the CPU; None where the network has no last linear map."""
    with frozen(teacher), torch.no_grad():
        found, _ = teacher.features_if_any(images.to(teacher.device))
    return None if isinstance(found, ZskdError) else found.cpu()


def _nearest(points: Tensor, of: Tensor) -> Tensor:
    """Return the Euclidean distance of each point (n, D) to the nearest of others (M, D).

    The nearest is found by products, which round small distances; its distance is then taken by itself.
    """
    distances: Tensor = (points - of[torch.cdist(points, of).argmin(1)]).norm(dim=1)
    return distances
