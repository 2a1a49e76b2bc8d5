"""A complete transfer set, mapped from disk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zskd.core.errors import ZskdError
from zskd.core.files import sha256_json
from zskd.core.tensors import map_tensors
from zskd.core.types import Images
from zskd.transfer_set.manifest import ShardEntry, read_manifest, verify_transfer_set
from zskd.transfer_set.shard import Shard


class TransferSet:
    """A complete transfer set on disk, its shards mapped into memory and not copied.

    What it gives as shards are pages of the files: they must not be written to. `images` gives copies.

    Args:
        folder: with manifest and shards.
        verify: hash every shard once; only for files that this very process has hashed already may it be
            left out.
        first: take the beginning alone, so many images. In the interleaved order it is what a set of that
            count would be.

    Raises:
        ZskdError: missing, damaged, changed or unfinished, or smaller than `first`.
    """

    def __init__(self, folder: Path, *, verify: bool = True, first: int | None = None) -> None:
        self.folder, self._first = folder, first
        if verify:
            verify_transfer_set(folder)
        self.manifest = read_manifest(folder)
        """What the set tells of itself; with `first`, of the whole set."""
        if first is not None and not 1 <= first <= self.manifest.count:
            raise ZskdError(f"{folder} holds {self.manifest.count:,} images: it has no first {first:,}")
        left = self.manifest.count if first is None else first
        self._shards: list[Shard] = []
        for entry in self.manifest.shards:
            if left > 0:
                self._shards.append(self._open(entry).select(slice(left)))
                left -= entry.count
        self._starts = torch.tensor([0] + [len(shard) for shard in self._shards]).cumsum(0)
        self.labels = torch.cat([shard.anchors for shard in self._shards])
        """The class that each image was made for, or that a real one shows (N,)."""

    def _open(self, entry: ShardEntry) -> Shard:
        path, count = self.folder / entry.file, entry.count
        tensors = map_tensors(path)
        wanted = {
            "images": (count, *self.shape),
            "targets": (count, len(self.class_names)),
            "logits": (count, len(self.class_names)),
            **dict.fromkeys(("anchors", "steps", "kl"), (count,)),
        }
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != wanted:
            raise ZskdError(f"{path} has not the tensors that the manifest tells of: make the set again")
        return Shard(**tensors)

    def __reduce__(self) -> tuple[Any, ...]:
        """Be sent to other processes as a folder, not as images."""
        return _reopened, (self.folder, self._first)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._shards)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.manifest.class_names

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self.manifest.shape

    @property
    def image_bytes(self) -> int:
        """What all images take in memory."""
        return len(self) * math.prod(self.shape) * 4

    def fingerprint(self) -> str:
        """Return a SHA-256 by which these images are known."""
        return sha256_json({"shards": [e.sha256 for e in self.manifest.shards], "count": len(self)})

    def all_images(self) -> Images:
        """Return all images as one copy in memory."""
        return torch.cat([shard.images for shard in self._shards])

    def images(self, rows: Tensor) -> Images:
        """Return the images of the given rows (N,), in that order.

        Raises:
            ZskdError: a row is negative or beyond the set.
        """
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise ZskdError(f"{self.folder} holds rows 0 to {len(self) - 1}")
        gathered = torch.empty(len(rows), *self.shape)
        owner = torch.bucketize(rows, self._starts[1:], right=True)
        for number in set(owner.tolist()):
            here = owner == number
            gathered[here] = self._shards[number].images[rows[here] - self._starts[number]]
        return gathered


def _reopened(folder: Path, first: int | None) -> TransferSet:
    return TransferSet(folder, verify=False, first=first)
