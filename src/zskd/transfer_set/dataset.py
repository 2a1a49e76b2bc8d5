"""A complete transfer set, memory-mapped from disk."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zskd.core.errors import ZskdError
from zskd.core.files import most_files, sha256_json
from zskd.core.tensors import map_tensors
from zskd.core.types import Images
from zskd.transfer_set.manifest import read_manifest, verify_transfer_set
from zskd.transfer_set.shard import Shard
from zskd.transfer_set.storage import DTYPES, decode

_ROUNDING = 1e-3
"""Of the sum of the targets of an image."""
_OF_FILES = 4
"""One in so many of the files that a process may open is for shards of a set: each that is mapped is open."""


class TransferSet:
    """A complete transfer set on disk, its shards mapped into memory and not copied.

    A set may have any number of shards, because not all of them are mapped at the same time. Iteration yields
    shards whose tensors are pages of the files: they must not be written to. Images that are stored in 8 bits
    or half precision are copied to float32. `images` returns copies.

    Args:
        folder: with manifest and shards.
        verify: whether to hash every shard; False only for files that this process has hashed before.
        first: number of images to use from the beginning; None: all. With the interleaved order they are the
            set of that count.

    Raises:
        ZskdError: the set is missing, damaged, changed or unfinished, holds numbers that cannot be used, or
            is smaller than `first`.
    """

    def __init__(self, folder: str | Path, *, verify: bool = True, first: int | None = None) -> None:
        folder = Path(folder)
        self.folder, self._first = folder, first
        if verify:
            verify_transfer_set(folder)
        self.manifest = read_manifest(folder)
        """The manifest of the whole set, also with `first`."""
        if first is not None and not 1 <= first <= self.manifest.count:
            count = f"{self.manifest.count:,}"
            raise ZskdError(f"{folder} holds {count} images: give first from 1 to {count}, not {first:,}")
        left = self.manifest.count if first is None else first
        self._entries = [entry for entry in self.manifest.shards if entry.count]
        self._counts: list[int] = []
        for entry in self._entries:
            if left > 0:
                self._counts.append(min(entry.count, left))
                left -= entry.count
        self._starts = torch.tensor([0, *self._counts]).cumsum(0)
        self._most, self._mapped = most_files() // _OF_FILES, OrderedDict[int, dict[str, Tensor]]()
        anchors = []
        for number, entry in enumerate(self._entries[: len(self._counts)]):
            shard = self._map(number)  # and not kept: the pages that are looked at would stay in memory
            if verify:
                self._check_values(folder / entry.file, shard)
            anchors.append(shard["anchors"].clone())
            self._itemsize = shard["images"].itemsize
        self.labels = torch.cat(anchors)
        """The class that each image was made for, or the label of a real image (N,)."""

    def _map(self, number: int) -> dict[str, Tensor]:
        """Map a shard, as far as its images are used."""
        entry = self._entries[number]
        path, count = self.folder / entry.file, entry.count
        tensors = map_tensors(path)
        expected = {
            "images": (count, *self.shape),
            "targets": (count, len(self.class_names)),
            "logits": (count, len(self.class_names)),
            **dict.fromkeys(("anchors", "steps", "kl"), (count,)),
        }
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != expected or tensors["images"].dtype not in DTYPES:
            raise ZskdError(f"{path} does not hold the tensors that the manifest lists: make the set again")
        return {name: one[: self._counts[number]] for name, one in tensors.items()}

    def _kept(self, number: int) -> dict[str, Tensor]:
        """Return a shard that stays mapped, in the place of the one that was unused for longest."""
        if number not in self._mapped:
            while len(self._mapped) >= self._most:
                self._mapped.popitem(last=False)
            self._mapped[number] = self._map(number)
        self._mapped.move_to_end(number)
        return self._mapped[number]

    def stored(self) -> Iterator[dict[str, Tensor]]:
        """Yield the tensors of each shard by name, as they are stored; mapped only while they are used."""
        return (self._mapped.get(number) or self._map(number) for number in range(len(self._counts)))

    def _check_values(self, path: Path, shard: dict[str, Tensor]) -> None:
        """Check the numbers of a shard: a hash tells that they were written, not that they can be used.

        Raises:
            ZskdError: pixels outside of [0, 1], targets that are no probabilities, values that are not
                finite, or anchors that are no classes.
        """
        images, targets, anchors = shard["images"], shard["targets"], shard["anchors"]
        in_range = images.dtype == torch.uint8 or bool(((images >= 0) & (images <= 1)).all())
        sums = (targets.double().sum(1) - 1).abs()
        wrong = {
            "pixels that are not in [0, 1]": not in_range,
            "targets that are no probabilities": not bool((targets >= 0).all() and (sums <= _ROUNDING).all()),
            "anchors that are no classes": anchors.dtype.is_floating_point
            or not bool(((anchors >= 0) & (anchors < len(self.class_names))).all()),
        }
        for name in ("logits", "kl", "steps"):
            wrong[f"{name} that are not finite"] = not bool(torch.isfinite(shard[name]).all())
        for what, is_wrong in wrong.items():
            if is_wrong:
                raise ZskdError(f"{path} holds {what}: make the set again")

    def keeping(self, shards: int) -> TransferSet:
        """Return the same set with at most so many shards mapped from one call of `images` to the next.

        There are fewer where the system allows fewer open files.
        """
        other = TransferSet.__new__(TransferSet)
        vars(other).update(vars(self), _most=min(shards, self._most), _mapped=OrderedDict())
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the folder's path, not the images."""
        return _reopened, (self.folder, self._first, self._most)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[Shard]:
        return (Shard(**shard | {"images": decode(shard["images"])}) for shard in self.stored())

    def column(self, name: str) -> Tensor:
        """Return a copy of one tensor of all shards by its name in `Shard`; images as they are stored."""
        end, whole = 0, torch.empty(0)
        for shard in self.stored():
            if not end:
                whole = torch.empty(len(self), *shard[name].shape[1:], dtype=shard[name].dtype)
            begin, end = end, end + len(shard[name])
            whole[begin:end] = shard[name]
        return whole

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Images of each shard, as far as they are used."""
        return tuple(self._counts)

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
        """Bytes of all images as they are stored."""
        return len(self) * math.prod(self.shape) * self._itemsize

    def fingerprint(self) -> str:
        """Return a SHA-256 that identifies these images, as hexadecimal digits."""
        return sha256_json({"shards": [e.sha256 for e in self.manifest.shards], "count": len(self)})

    def check_shape(self, shape: tuple[int, int, int]) -> None:
        """Refuse a teacher of another input shape.

        Raises:
            ZskdError: it is not that of these images.
        """
        if self.shape != shape:
            raise ZskdError(
                f"{self.folder} holds images of {self.shape} and the teacher takes {shape}: "
                "give a transfer set of this teacher"
            )

    def all_images(self) -> Images:
        """Return a copy of all images in memory (N, C, H, W)."""
        return decode(self.column("images"))

    def images(self, rows: Tensor) -> Images:
        """Return copies of the images (M, C, H, W) of some rows (M,), in that order.

        Raises:
            ZskdError: a row is negative or beyond the set.
        """
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise ZskdError(f"a row is not in {self.folder}: give rows from 0 to {len(self) - 1}")
        gathered = torch.empty(len(rows), *self.shape)
        owner = torch.bucketize(rows, self._starts[1:], right=True)
        for number in sorted(set(owner.tolist())):
            inside = owner == number
            gathered[inside] = decode(self._kept(number)["images"][rows[inside] - self._starts[number]])
        return gathered


def _reopened(folder: Path, first: int | None, most: int) -> TransferSet:
    return TransferSet(folder, verify=False, first=first).keeping(most)
