"""Unlabelled pictures of the user's as a transfer set, balanced as the teacher sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.core.memory import at_once
from zskd.core.progress import Progress
from zskd.core.rng import torch_stream
from zskd.core.types import Images
from zskd.data.folder import hash_pictures, picture_files, read_image
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.synthesis.room import storage_of
from zskd.synthesis.shard import label
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import PICTURES, Provenance
from zskd.transfer_set.shard import write_shard
from zskd.transfer_set.storage import decode, encode, round_to
from zskd.transfer_set.writer import Writer

_BATCH = 100
"""Pictures whose logits are computed together, fewer of large ones."""
_DRAWN = 4
"""Pictures that are read at most for each one that is kept."""


def build_picture_set(
    teacher: Classifier,
    source: Path,
    folder: Path,
    *,
    count: int = 20_000,
    seed: int = 0,
    progress: Progress | None = None,
) -> TransferSet:
    """Write pictures of a folder with the teacher's logits as a transfer set; no labels are used.

    All pictures below `source` are candidates, whatever folder they are in; of more than four times `count`
    a random part. A picture is resized to the teacher's input as a whole, bilinearly, even if its sides have
    another ratio. Of more than `count`, equal numbers of each class that the teacher predicts are kept, as
    far as there are any, first those that it is most sure of.

    Args:
        teacher: computes logits in evaluation mode; left as it is.
        source: folder of the pictures.
        folder: of this set alone; a complete set in it is not written again.
        count: largest number of pictures, at least 1.
        seed: of the draw among many candidates.
        progress: receives a line for each file that cannot be read, and one about the classes.

    Returns:
        The set. Its anchors are the classes that the teacher predicts.

    Raises:
        ZskdError: there is no picture that can be read, or the folder holds another set.
    """
    progress = progress or Progress()
    if count < 1:
        raise ZskdError(f"count is {count}: give at least 1 picture")
    files = picture_files(source)
    provenance = Provenance(
        spec={"method": PICTURES, "count": count, "seed": seed},
        teacher_sha256=teacher.fingerprint(),
        data_sha256=hash_pictures(source),
    )
    writer = Writer(folder, provenance, class_names=teacher.class_names, shape=teacher.spec.shape)
    if writer.complete:
        return TransferSet(folder)
    config = SynthesisConfig(batch_size=at_once(_BATCH, teacher.spec.shape))
    storage = storage_of(config, teacher.spec.shape)
    order = torch.randperm(len(files), generator=torch_stream(seed, "pictures", 0))[: _DRAWN * count]
    with frozen(teacher), torch.no_grad():
        pixels, logits = _read(teacher, [files[row] for row in order.sort().values.tolist()], progress)
        if not len(pixels):
            raise ZskdError(f"{source} holds no picture that can be read: give a folder with some")
        rows = balanced(logits, count)
        progress.log(_summary(source, len(pixels), logits[rows]))
        for number, chosen in enumerate(torch.split(rows, config.shard_size)):
            if number not in writer.done:
                images = decode(pixels[chosen]).clamp(*teacher.spec.box)
                images = round_to(images, storage, teacher.spec.box)
                no_steps = torch.zeros(len(chosen), dtype=torch.int32)
                no_targets = torch.zeros(len(chosen), teacher.classes)
                shard = label(teacher, images, no_targets, no_steps.long(), no_steps, config)
                writer.add(number, write_shard(folder, number, shard, storage=storage))
    writer.finish()
    return TransferSet(folder)


def balanced(logits: Tensor, count: int) -> Tensor:
    """Return at most `count` rows (M,) in equal numbers of each predicted class, as far as there are any.

    Args:
        logits: of the teacher (N, K).
        count: rows wanted. Of each class come first those of the largest probability.

    Returns:
        The surest row of each class, then the second surest, and so on.
    """
    confidence, classes = F.softmax(logits.double(), dim=1).max(1)
    by_confidence = confidence.argsort(descending=True, stable=True)
    of_class = F.one_hot(classes[by_confidence], logits.shape[1])
    # how many of the same class come before, so that a prefix has equal numbers of each
    place = (of_class.cumsum(0) * of_class).sum(1)
    return by_confidence[place.argsort(stable=True)][:count]


def _read(teacher: Classifier, files: Sequence[Path], progress: Progress) -> tuple[Tensor, Tensor]:
    """Return the readable pictures in 256 levels (N, C, H, W) and the teacher's logits for them (N, K)."""
    shape, size = teacher.spec.shape, at_once(_BATCH, teacher.spec.shape)
    pixels, logits = [torch.empty(0, *shape, dtype=torch.uint8)], [torch.empty(0, teacher.classes)]
    for start in range(0, len(files), size):
        read = []
        for path in files[start : start + size]:
            try:
                read.append(read_image(path, shape))
            except ZskdError as error:
                if shape[0] not in (1, 3):
                    raise
                progress.log(f"warning: {error}; it is left out")
        if read:
            images: Images = torch.from_numpy(np.stack(read))
            pixels.append(encode(images, "uint8"))
            logits.append(teacher(images.clamp(*teacher.spec.box).to(teacher.device)).cpu())
    return torch.cat(pixels), torch.cat(logits)


def _summary(source: Path, read: int, logits: Tensor) -> str:
    """One line about the pictures that are kept: how many, and how evenly the teacher sees them."""
    counts = torch.bincount(logits.argmax(1), minlength=logits.shape[1])
    share = counts[counts > 0] / counts.sum()
    entropy = float(-(share * share.log()).sum()) / math.log(len(counts))
    return (
        f"pictures: {len(logits):,} of {read:,} in {source} are kept; the teacher sees "
        f"{int((counts > 0).sum())} of {len(counts)} classes in them, from {int(counts.min()):,} to "
        f"{int(counts.max()):,} of each (entropy {entropy:.2f} of 1)"
    )
