"""Real training images as a transfer set: the arms that a method without data is compared with."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.core.rng import numpy_stream
from zskd.core.types import Labels
from zskd.data.datasets import Split
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.synthesis.shard import label
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import REAL, Provenance
from zskd.transfer_set.shard import write_shard
from zskd.transfer_set.writer import Writer


def build_real_set(
    teacher: Classifier,
    split: Split,
    folder: Path,
    *,
    count: int,
    seed: int = 0,
    leave_out: tuple[int, ...] = (),
) -> TransferSet:
    """Write real images with their labels and the teacher's answers as a transfer set.

    Args:
        teacher: asked about every image in evaluation mode; left as it is.
        split: images to draw from.
        folder: of this set alone; whole shards of the same draw in it are kept.
        count: number of images.
        seed: of the draw.
        leave_out: classes that are never drawn, as by the reproduction, which draws "soft-logits" from all
            labels that are not zero.

    Returns:
        The set: its anchors are the labels, its `anchor_match` the teacher's accuracy on it.

    Raises:
        ZskdError: there are not so many images, or the folder holds another set.
    """
    rows = draw_rows(split.labels, seed=seed, leave_out=leave_out)
    if not 1 <= count <= len(rows):
        raise ZskdError(f"{count:,} real images are wanted and there are {len(rows):,}: lower the rate")
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
    config = SynthesisConfig()
    with frozen(teacher), torch.no_grad():
        for number, some in enumerate(torch.split(rows, config.shard_size)):
            if number not in writer.done and not writer.complete:
                labels, steps = split.labels[some], torch.zeros(len(some), dtype=torch.int32)
                nothing = torch.zeros(len(some), teacher.classes)
                shard = label(teacher, split.images[some], nothing, labels, steps, config)
                writer.add(number, write_shard(folder, number, replace(shard, anchors=labels)))
    if not writer.complete:
        writer.finish()
    return TransferSet(folder)


def draw_rows(labels: Labels, *, seed: int, leave_out: tuple[int, ...] = ()) -> Tensor:
    """Return the rows of all images in a random order of which every beginning is stratified.

    In the first n rows every class has its share of the whole to within one image or so.

    Args:
        labels: class of each image (N,).
        seed: of the order within each class.
        leave_out: classes whose rows are not returned.
    """
    rows, places = [], []
    for k in sorted(set(labels.tolist()) - set(leave_out)):
        own = (labels == k).nonzero()[:, 0].numpy()
        rows.append(numpy_stream(seed, "real", k).permutation(own))
        # image j of n lies at (j + ½)/n of the way, so that classes of any size are spread evenly
        places.append((np.arange(len(own)) + 0.5) / len(own))
    if not rows:
        return torch.empty(0, dtype=torch.int64)
    order = np.argsort(np.concatenate(places), kind="stable")
    return torch.from_numpy(np.concatenate(rows)[order])


def _fingerprint(split: Split) -> str:
    digest = hashlib.sha256(split.images.contiguous().numpy().data)
    digest.update(split.labels.contiguous().numpy().data)
    return digest.hexdigest()
