"""A network as an archive of torch.export."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from zskd.core.files import whole_file
from zskd.core.types import Images
from zskd.export.check import Comparison, check_ending, check_pictures, compare
from zskd.export.recording import quiet, record
from zskd.models.classifier import Classifier
from zskd.models.exported import Description

DESCRIPTION = "zskd.json"
"""Name of the description in the archive, for `extra_files` of `torch.export.load`."""
_ENDING = ".pt2"


def export_pt2(classifier: Classifier, path: str | Path, *, images: Images | None = None) -> Comparison:
    """Write a network as `torch.export.save` does, for any number of images, with its normalisation.

    The archive is read back and compared with the network before the file is written. `torch.export.load`
    reads it without zskd and without the network's source. torch warns that later versions may not read it.

    Args:
        classifier: not changed.
        path: of the file, which ends in .pt2.
        images: to compare on (N, C, H, W) in [0, 1]; 1,000 random shapes when absent, 64 if they are large.

    Returns:
        The comparison.

    Raises:
        ZskdError: the path does not end in .pt2 or cannot be written, the network cannot be exported, or the
            file's logits differ by more than rounding.
    """
    path = check_ending(path, _ENDING)
    pictures = check_pictures(classifier, images)
    program = record(classifier)
    description = Description.of(classifier).model_dump_json(exclude_unset=True)
    archive = io.BytesIO()  # a file's name would become a part of it
    with quiet():
        torch.export.save(program, archive, extra_files={DESCRIPTION: description})
        archive.seek(0)
        read = torch.export.load(archive).module()
    comparison = compare(read, classifier, pictures, what=str(path))
    with whole_file(path) as temporary:
        temporary.write_bytes(archive.getvalue())
    return comparison
