"""Transfer sets for other programs: the reproduction's MATLAB layout, and a tree of PNG files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from zskd.core.errors import ZskdError, readable_errors
from zskd.core.files import make_folder, whole_file
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.transfer_set.dataset import TransferSet


def export_mat(transfer_set: TransferSet, path: Path) -> Path:
    """Write a MATLAB file in the layout of the reproduction.

    It holds `train_images` (N, H, W, C), float32 in 0–255 and not rounded, and `train_labels` (N, K), the
    targets.

    Args:
        transfer_set: what is written.
        path: of the file, which ends in .mat.

    Returns:
        `path`.

    Raises:
        ZskdError: the path does not end in .mat, or cannot be written.
    """
    from scipy.io import savemat

    images = torch.cat([shard.images for shard in transfer_set]).permute(0, 2, 3, 1).numpy() * 255
    labels = torch.cat([shard.targets for shard in transfer_set]).numpy()
    if path.suffix != ".mat":
        raise ZskdError(f"{path} does not end in .mat: give a file name that does")
    with whole_file(path) as temporary:
        savemat(str(temporary), {"train_images": images, "train_labels": labels})
    return path


def export_png(teacher: Classifier, transfer_set: TransferSet, folder: Path) -> Path:
    """Write `<folder>/<class>/<row>.png` in 8 bits and `labels.jsonl`.

    Each line of `labels.jsonl` holds file, target y and the teacher's logits for the rounded image, because
    rounding changes them.

    Args:
        teacher: of the set; used in evaluation mode and left as it is.
        transfer_set: what is written.
        folder: new or empty.

    Returns:
        `folder`.

    Raises:
        ZskdError: another teacher, the folder is not empty, or the images are neither grey nor RGB.
    """
    if transfer_set.shape[0] not in (1, 3):
        raise ZskdError(
            f"PNG files are grey or RGB; these images have {transfer_set.shape[0]} channels: give --to mat"
        )
    if transfer_set.manifest.teacher_sha256 != teacher.fingerprint():
        raise ZskdError(f"{transfer_set.folder} was made with another teacher: give that teacher")
    make_folder(folder)
    if any(folder.iterdir()):
        raise ZskdError(f"{folder} is not empty: choose another folder")
    names = [_safe(name, k) for k, name in enumerate(transfer_set.class_names)]
    for name in names:
        make_folder(folder / name)
    row = 0
    with whole_file(folder / "labels.jsonl") as temporary, temporary.open("w", encoding="utf-8") as lines:
        for shard in transfer_set:
            rounded = (shard.images * 255).round().to(torch.uint8)
            with frozen(teacher), torch.inference_mode():
                logits = teacher(rounded.float() / 255)
            for pixels, k, target, output in zip(rounded, shard.anchors, shard.targets, logits, strict=True):
                file = Path(names[int(k)]) / f"{row:06d}.png"
                _write_png(pixels.permute(1, 2, 0).numpy(), folder / file)
                record = {"file": file.as_posix(), "target": target.tolist(), "logits": output.tolist()}
                lines.write(json.dumps(record) + "\n")
                row += 1
    return folder


def _write_png(pixels: np.ndarray, path: Path) -> None:
    with readable_errors(path, "write"):
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)


def _safe(name: str, number: int) -> str:
    """Return a class's folder name, with the class number if the name is no file name (`T-shirt/top`)."""
    cleaned = "".join(c if c.isalnum() or c in "-_ ." else "_" for c in name).strip(". ")
    return cleaned if cleaned and cleaned == name else f"{number}_{cleaned}"
