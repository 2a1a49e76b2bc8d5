"""One shard of a transfer set: tensors, and the file that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from zskd.core.files import (
    sha256_file,
    whole_file,
)
from zskd.core.tensors import save_tensors
from zskd.core.types import Images, Labels, Logits, PerSample, SoftLabels
from zskd.transfer_set.manifest import ShardEntry


@dataclass(frozen=True)
class Shard:
    """Some images of a transfer set and what is known of each."""

    images: Images
    """Pixels inside the teacher's box."""
    targets: SoftLabels
    """What the teacher was to answer, y."""
    logits: Logits
    """What it does answer for the stored image."""
    anchors: Labels
    """The class k that the target was drawn for."""
    steps: Tensor
    """Optimisation steps used (N,), int32."""
    kl: PerSample
    """KL(y ‖ softmax(T(x)/τ)) of the stored image at the set's own τ, in nats."""

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: Tensor | slice) -> Shard:
        """Return some rows, by number, by mask, or as a view by a slice."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, as they are stored."""
        return {f.name: getattr(self, f.name).contiguous() for f in fields(self)}

    @classmethod
    def join(cls, parts: Sequence[Shard]) -> Shard:
        """Put several together."""
        return cls(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    @staticmethod
    def bytes_per_image(shape: tuple[int, int, int], classes: int) -> int:
        """Return what one image takes on disk."""
        channels, height, width = shape
        return 4 * (channels * height * width + 2 * classes + 2) + 8


def write_shard(folder: Path, number: int, shard: Shard, *, missed: int = 0) -> ShardEntry:
    """Write one shard as a whole file and return what a manifest tells of it.

    Args:
        folder: of the set.
        number: of the shard.
        shard: images and what is known of them.
        missed: how many images, dropped ones included, used up their steps without meeting their target.
    """
    path = folder / f"shard-{number:05d}.safetensors"
    with whole_file(path) as temporary:
        save_tensors(shard.tensors(), temporary)
    return ShardEntry(
        file=path.name,
        count=len(shard),
        sha256=sha256_file(path),
        mean_kl=float(shard.kl.mean()),
        mean_steps=float(shard.steps.float().mean()),
        anchor_match=float((shard.logits.argmax(1) == shard.anchors).float().mean()),
        missed=missed,
    )
