"""One shard of a transfer set: tensors, and the file that holds them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

from torch import Tensor

from zskd.core.files import sha256_file, whole_file
from zskd.core.passes import Passes
from zskd.core.tensors import save_tensors
from zskd.core.types import Images, Labels, Logits, PerSample, SoftLabels
from zskd.transfer_set.manifest import ShardEntry
from zskd.transfer_set.storage import Storage, bytes_per_pixel, encode


@dataclass(frozen=True)
class Shard:
    """N images of a transfer set, with targets, logits and provenance of each."""

    images: Images
    """(N, C, H, W), pixels inside the teacher's input box."""
    targets: SoftLabels
    """y (N, K), what the teacher should output."""
    logits: Logits
    """T(x) (N, K), what the teacher outputs for the stored image."""
    anchors: Labels
    """The class k that the target was drawn for (N,)."""
    steps: Tensor
    """Optimisation steps taken (N,), int32; 0 for an image that was not optimised."""
    kl: PerSample
    """KL(y ‖ softmax(T(x)/τ)) of the stored image at the τ of the set's synthesis (N,), in nats."""

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: Tensor | slice) -> Shard:
        """Return the shard of some rows: numbers (M,), a mask (N,), or a slice, which returns views."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {f.name: getattr(self, f.name).contiguous() for f in fields(self)}

    @staticmethod
    def bytes_per_image(shape: tuple[int, int, int], classes: int, storage: Storage = "float32") -> int:
        """Return the bytes that one image needs on disk."""
        return bytes_per_pixel(storage) * math.prod(shape) + 4 * (2 * classes + 2) + 8


def write_shard(
    folder: Path,
    number: int,
    shard: Shard,
    *,
    missed: int = 0,
    storage: Storage = "float32",
    passes: Passes | None = None,
) -> ShardEntry:
    """Write one shard as a whole file and return its manifest entry.

    Args:
        folder: of the set.
        number: of the shard.
        shard: empty where all of its images were dropped.
        missed: images, dropped ones included, that took all their steps without meeting their target.
        storage: of the pixels; the shard's logits belong to images of `round_to`.
        passes: through the teacher, by stage.
    """
    path = folder / f"shard-{number:05d}.safetensors"
    with whole_file(path) as temporary:
        save_tensors(shard.tensors() | {"images": encode(shard.images, storage).contiguous()}, temporary)
    return ShardEntry(
        file=path.name,
        count=len(shard),
        sha256=sha256_file(path),
        mean_kl=_mean(shard.kl),
        mean_steps=_mean(shard.steps.float()),
        anchor_match=_mean((shard.logits.argmax(1) == shard.anchors).float()),
        missed=missed,
        passes=passes,
    )


def _mean(values: Tensor) -> float:
    """Return the mean of some values, 0 of none."""
    return float(values.mean()) if len(values) else 0.0
