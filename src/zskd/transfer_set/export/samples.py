"""The samples of a transfer set for other programs: pictures of 8 bits, and what belongs to each of them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from PIL import Image

from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier
from zskd.models.many_images import logits_in_parts
from zskd.models.modes import frozen
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.storage import decode, encode

IN_ONE_FILE = 10_000
"""Samples in one Parquet file or tar."""
_BATCH = 100
"""Images whose logits are computed together, fewer of large ones."""


@dataclass(frozen=True)
class Sample:
    """One image of a transfer set."""

    row: int
    """Of the set."""
    png: bytes
    """The image, rounded to 8 bits: grey or RGB."""
    label: int
    """The class that it was made for, or the label of a real image."""
    target: list[float]
    """y (K,), what the teacher should output."""
    logits: list[float]
    """What the teacher outputs for the rounded image (K,); rounding changes it."""


def check_samples(teacher: Classifier, transfer_set: TransferSet) -> None:
    """Check that pictures can be made of a set, and that the teacher is its own.

    Raises:
        ZskdError: the images are neither grey nor RGB, or the set was made with another teacher.
    """
    if transfer_set.shape[0] not in (1, 3):
        raise ZskdError(
            f"PNG files are grey or RGB; these images have {transfer_set.shape[0]} channels: give --to mat"
        )
    if transfer_set.manifest.teacher_sha256 != teacher.fingerprint():
        raise ZskdError(f"{transfer_set.folder} was made with another teacher: give that teacher")


def samples(teacher: Classifier, transfer_set: TransferSet) -> Iterator[Sample]:
    """Yield the samples of a set in its order; no more than one shard is in the memory.

    Args:
        teacher: of the set; used in evaluation mode and left as it is.
        transfer_set: one that `check_samples` accepts.
    """
    row = 0
    for shard in transfer_set:
        rounded = encode(shard.images, "uint8")
        with frozen(teacher):
            logits = logits_in_parts(teacher, decode(rounded), _BATCH).cpu()
        for pixels, k, target, output in zip(rounded, shard.anchors, shard.targets, logits, strict=True):
            png = _png(pixels.permute(1, 2, 0).numpy())
            yield Sample(row, png, int(k), target.tolist(), output.tolist())
            row += 1


def by_file(found: Iterable[Sample], most: int) -> Iterator[tuple[int, Iterator[Sample]]]:
    """Yield the number of each file, and its samples, which must be taken before the next file is asked for.

    Args:
        found: samples in the order of their rows.
        most: samples in one file.
    """
    return groupby(found, key=lambda sample: sample.row // most)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "png")
    return file.getvalue()
