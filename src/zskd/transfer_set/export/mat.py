"""A transfer set as a MATLAB file, in the reproduction's layout."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from zskd.core.errors import ZskdError
from zskd.core.files import whole_file
from zskd.transfer_set.dataset import TransferSet

_LARGEST = 2**32 - 1024
"""Bytes of an array in a MATLAB 5 file, with some for its header."""


def export_mat(transfer_set: TransferSet, path: str | Path) -> Path:
    """Write a MATLAB file in the layout of the reproduction.

    It holds `train_images` (N, H, W, C), float32 in 0–255 and not rounded, and `train_labels` (N, K), the
    targets.

    Args:
        transfer_set: what is written.
        path: of the file, which ends in .mat.

    Returns:
        `path`.

    Raises:
        ZskdError: the path does not end in .mat, or cannot be written, or the images take 4 GiB, which such
            a file cannot hold.
    """
    from scipy.io import savemat

    path = Path(path)
    if path.suffix != ".mat":
        raise ZskdError(f"{path} does not end in .mat: give a file name that does")
    if 4 * len(transfer_set) * math.prod(transfer_set.shape) >= _LARGEST:
        raise ZskdError(
            f"{len(transfer_set):,} images take more than the 4 GiB of a .mat file: export them --to parquet"
        )
    images = torch.cat([shard.images for shard in transfer_set]).permute(0, 2, 3, 1).numpy() * 255
    labels = torch.cat([shard.targets for shard in transfer_set]).numpy()
    with whole_file(path) as temporary:
        savemat(str(temporary), {"train_images": images, "train_labels": labels})
    return path
