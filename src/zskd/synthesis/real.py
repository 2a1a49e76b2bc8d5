"""Real training images as a transfer set: arms that data-free methods are compared with."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.core.memory import at_once
from zskd.core.passes import counting
from zskd.core.rng import numpy_stream
from zskd.core.types import Labels
from zskd.data.datasets import Split
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.synthesis.shard import label
from zskd.synthesis.sizes import in_files_as_begun
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import REAL, Provenance
from zskd.transfer_set.shard import write_shard
from zskd.transfer_set.writer import Writer

_BATCH = 100
"""Images whose logits are computed together, fewer of large ones."""


def build_real_set(
    teacher: Classifier,
    split: Split,
    folder: Path,
    *,
    count: int,
    seed: int = 0,
    leave_out: tuple[int, ...] = (),
) -> TransferSet:
    """Write real images with their labels and the teacher's logits as a transfer set.

    Args:
        teacher: computes logits in evaluation mode; left as it is.
        split: images (N, C, H, W) and labels (N,) to draw from.
        folder: of this set alone; complete shards of the same draw in it are not written again.
        count: number of images, at least 1.
        seed: of the draw.
        leave_out: classes that are never drawn; the reproduction draws its "soft-logits" from all labels
            other than 0.

    Returns:
        The set. Its anchors are the labels, its targets the teacher's outputs, and its `anchor_match` is the
        teacher's accuracy on it.

    Raises:
        ZskdError: there are fewer images, or the folder holds another set.
    """
    rows = draw_rows(split.labels, seed=seed, leave_out=leave_out)
    if not 1 <= count <= len(rows):
        raise ZskdError(f"cannot draw {count:,} of {len(rows):,} real images: change the rate")
    rows = rows[:count]
    provenance = Provenance(
        spec={"method": REAL, "count": count, "seed": seed, "leave_out": list(leave_out)},
        teacher_sha256=teacher.fingerprint(),
        data_sha256=_fingerprint(split),
    )
    writer = Writer(
        folder,
        provenance,
        class_names=teacher.class_names,
        shape=teacher.spec.shape,
    )
    config = SynthesisConfig(batch_size=at_once(_BATCH, teacher.spec.shape))
    size = in_files_as_begun(config, teacher.spec.shape, count, writer.done)
    with frozen(teacher), torch.no_grad():
        for number, chosen in enumerate(torch.split(rows, size)):
            if number not in writer.done and not writer.complete:
                labels, steps = split.labels[chosen], torch.zeros(len(chosen), dtype=torch.int32)
                no_targets = torch.zeros(len(chosen), teacher.classes)
                with counting("labelling", teacher=teacher) as tally:
                    shard = label(teacher, split.images[chosen], no_targets, labels, steps, config)
                shard = replace(shard, anchors=labels)
                writer.add(number, write_shard(folder, number, shard, passes=tally.passes()))
    if not writer.complete:
        writer.finish()
    return TransferSet(folder)


def draw_rows(labels: Labels, *, seed: int, leave_out: tuple[int, ...] = ()) -> Tensor:
    """Return the rows of all images (N,) in a random order whose prefixes are stratified.

    Of the first n rows, each class has its share of the whole, up to about one image.

    Args:
        labels: class of each image (N,).
        seed: of the order within each class.
        leave_out: classes whose rows are not returned.
    """
    rows, positions = [], []
    for k in sorted(set(labels.tolist()) - set(leave_out)):
        own = (labels == k).nonzero()[:, 0].numpy()
        rows.append(numpy_stream(seed, "real", k).permutation(own))
        # image j of n is at position (j + ½)/n, so that classes of any size are spread evenly
        positions.append((np.arange(len(own)) + 0.5) / len(own))
    if not rows:
        return torch.empty(0, dtype=torch.int64)
    order = np.argsort(np.concatenate(positions), kind="stable")
    return torch.from_numpy(np.concatenate(rows)[order])


def _fingerprint(split: Split) -> str:
    digest = hashlib.sha256(split.images.contiguous().numpy().data)
    digest.update(split.labels.contiguous().numpy().data)
    return digest.hexdigest()
