"""Pictures of the user's as a transfer set, balanced as the teacher sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.config.synthesis import SynthesisConfig
from zskd.core.artefact import JsonObject
from zskd.core.errors import ZskdError
from zskd.core.memory import at_once
from zskd.core.passes import Passes, counting, sum_passes
from zskd.core.progress import Progress
from zskd.core.rng import torch_stream
from zskd.core.types import Images, Labels, Logits
from zskd.data.folder import class_of_each, read_image, read_pictures
from zskd.data.packed import Picture
from zskd.data.pictures import find_pictures, hash_pictures
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.synthesis.shard import label
from zskd.synthesis.sizes import in_files_as_begun
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import PICTURES, Provenance
from zskd.transfer_set.shard import write_shard
from zskd.transfer_set.storage import decode, encode, round_to, usual_storage
from zskd.transfer_set.writer import Writer

_BATCH = 100
"""Pictures whose logits are computed together, fewer of large ones."""
_DRAWN = 4
"""Pictures that are read at most for each one that is kept."""


def build_picture_set(
    teacher: Classifier,
    source: str | Path,
    folder: str | Path,
    *,
    count: int = 20_000,
    seed: int = 0,
    labelled: bool = False,
    progress: Progress | None = None,
) -> TransferSet:
    """Write pictures from elsewhere with the teacher's logits as a transfer set.

    All pictures of `source` are candidates, whatever folder they are in; of more than four times `count`
    a random part. A picture is resized to the teacher's input as a whole, bilinearly, even if its sides have
    another ratio. Of more than `count`, equal numbers of each class that the teacher predicts are kept, as
    far as there are any, first those that it is most sure of. The kept ones are read a second time, shard by
    shard: no more than one shard is in the memory.

    Args:
        teacher: computes logits in evaluation mode; left as it is.
        source: folder of pictures, tar file of WebDataset, Parquet file, or folder of such files.
        folder: of this set alone; a complete set in it is not written again.
        count: largest number of pictures, at least 1.
        seed: of the draw among many candidates.
        labelled: whether each folder in `source` holds pictures of the class that it is named after.
        progress: receives a line for each file that cannot be read, and one about the classes.

    Returns:
        The set. Its anchors are the labels, or without them the classes that the teacher predicts.

    Raises:
        ZskdError: there is no picture that can be read, a picture has no label of the teacher's, or the
            folder holds another set.
    """
    source, folder, progress = Path(source), Path(folder), progress or Progress()
    if count < 1:
        raise ZskdError(f"count is {count}: give at least 1 picture")
    files = find_pictures(source, scratch=folder)
    classes = class_of_each(source, files, teacher.class_names) if labelled else None
    spec: JsonObject = {"method": PICTURES, "count": count, "seed": seed}
    spec |= {"labelled": True} if labelled else {}
    provenance = Provenance(
        spec=spec, teacher_sha256=teacher.fingerprint(), data_sha256=hash_pictures(source)
    )
    writer = Writer(folder, provenance, class_names=teacher.class_names, shape=teacher.spec.shape)
    if writer.complete:
        return TransferSet(folder)
    drawn = torch.randperm(len(files), generator=torch_stream(seed, "pictures", 0))[: _DRAWN * count]
    with frozen(teacher), torch.no_grad(), counting("synthesis", teacher=teacher) as choosing:
        found = _look_at(teacher, files, drawn.sort().values.tolist(), progress)
        if not len(found.rows):
            raise ZskdError(f"{source} holds no picture that can be read: give a folder with some")
        kept = balanced(found.confidence, found.predicted, count)
        progress.log(_summary(source, found, kept, teacher.classes))
        _write(teacher, files, found.rows[kept], classes, writer, choosing.passes(), folder, progress)
    writer.finish()
    return TransferSet(folder)


def picture_passes(teacher: Classifier, source: Path, count: int) -> int:
    """Return the passes for a set of pictures at most: a look at each candidate, and labels in full batches.

    Args:
        teacher: for the size of its images.
        source: as for `build_picture_set`; nothing of it is read but its list of pictures.
        count: as there.

    Raises:
        ZskdError: there is no such source, or no picture in it.
    """
    found, batch = len(find_pictures(source)), at_once(_BATCH, teacher.spec.shape)
    return min(found, _DRAWN * count) + math.ceil(min(found, count) / batch) * batch


@dataclass(frozen=True)
class _Candidates:
    """Readable pictures, as the teacher sees them."""

    rows: Tensor
    """Of the list of files (N,)."""
    confidence: Tensor
    """Largest probability (N,)."""
    predicted: Labels
    """Its class (N,)."""


def _look_at(
    teacher: Classifier, files: Sequence[Picture], rows: Sequence[int], progress: Progress
) -> _Candidates:
    """Read pictures in small batches and keep what the teacher predicts for them, not the pictures."""
    shape, size = teacher.spec.shape, at_once(_BATCH, teacher.spec.shape)
    readable, parts = list[int](), [torch.empty(0, teacher.classes).double().max(1)]
    with progress.task("looking at pictures", len(rows), "pictures") as task:

        def leave_out(_: Picture, error: ZskdError) -> None:
            progress.log(f"warning: {error}; it is left out")
            task.advance()

        for places, read in read_pictures([files[row] for row in rows], shape, size, leave_out):
            readable += [rows[place] for place in places]
            images: Images = read.clamp(*teacher.spec.box)
            logits: Logits = teacher(images.to(teacher.device)).cpu()
            parts.append(F.softmax(logits.double(), dim=1).max(1))
            task.advance(len(places))
    confidence, predicted = (torch.cat(values) for values in zip(*parts, strict=True))
    return _Candidates(torch.tensor(readable, dtype=torch.int64), confidence, predicted)


def balanced(confidence: Tensor, predicted: Labels, count: int) -> Tensor:
    """Return at most `count` rows (M,) in equal numbers of each predicted class, as far as there are any.

    Args:
        confidence: of the teacher in its prediction (N,). Of each class come first those of the largest.
        predicted: the class that it predicts (N,).
        count: rows wanted.

    Returns:
        The surest row of each class, then the second surest, and so on.
    """
    by_confidence = confidence.argsort(descending=True, stable=True)
    # how many of the same class come before, so that a prefix has equal numbers of each
    by_class = predicted[by_confidence].argsort(stable=True)
    sizes = predicted.bincount()
    place = torch.empty_like(by_class)
    place[by_class] = torch.arange(len(by_class)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return by_confidence[place.argsort(stable=True)][:count]


def _write(
    teacher: Classifier,
    files: Sequence[Picture],
    rows: Tensor,
    classes: Labels | None,
    writer: Writer,
    choosing: Passes,
    folder: Path,
    progress: Progress,
) -> None:
    """Write the shards that are missing; the first one lists the passes for the choice of all pictures."""
    config = SynthesisConfig(batch_size=at_once(_BATCH, teacher.spec.shape))
    storage = usual_storage(teacher.spec.shape)
    size = in_files_as_begun(config, teacher.spec.shape, len(rows), writer.done)
    parts = dict(enumerate(torch.split(rows, size)))
    missing = {number: chosen for number, chosen in parts.items() if number not in writer.done}
    left = sum(map(len, missing.values()))
    with progress.task("pictures", len(rows), "pictures", done=len(rows) - left) as task:
        for number, chosen in missing.items():
            read = (read_image(files[row], teacher.spec.shape) for row in chosen.tolist())
            stored = torch.cat([encode(torch.from_numpy(picture)[None], "uint8") for picture in read])
            images = round_to(decode(stored).clamp(*teacher.spec.box), storage, teacher.spec.box)
            steps = torch.zeros(len(chosen), dtype=torch.int32)
            anchors = steps.long() if classes is None else classes[chosen]
            with counting("labelling") as tally:
                targets = torch.zeros(len(chosen), teacher.classes)
                shard = label(teacher, images, targets, anchors, steps, config)
            if classes is not None:
                shard = replace(shard, anchors=anchors)
            passes = sum_passes([tally.passes()] if number else [choosing, tally.passes()])
            writer.add(number, write_shard(folder, number, shard, storage=storage, passes=passes))
            task.advance(len(chosen))


def _summary(source: Path, found: _Candidates, kept: Tensor, classes: int) -> str:
    """One line about the pictures that are kept: how many, and how evenly the teacher sees them."""
    counts = torch.bincount(found.predicted[kept], minlength=classes)
    share = counts[counts > 0] / counts.sum()
    entropy = abs(float((share * share.log()).sum())) / math.log(len(counts))
    return (
        f"pictures: {len(kept):,} of {len(found.rows):,} in {source} are kept; the teacher sees "
        f"{int((counts > 0).sum())} of {len(counts)} classes in them, from {int(counts.min()):,} to "
        f"{int(counts.max()):,} of each (entropy {entropy:.2f} of 1)"
    )
