"""Checking again what lies on disk."""

from __future__ import annotations

from pathlib import Path

from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.models.checkpoint import CARD, WEIGHTS, read_card
from zskd.transfer_set.manifest import MANIFEST, verify_transfer_set


def verify_folder(folder: Path) -> list[str]:
    """Verify a transfer set, a checkpoint, or every one of both inside a run.

    Returns:
        One line for each thing that is whole.

    Raises:
        ZskdError: the first thing that is not, or a folder that holds neither.
    """
    if (folder / MANIFEST).is_file():
        return [f"{folder}: {verify_transfer_set(folder)} shards are whole"]
    if (folder / CARD).is_file():
        _verify_checkpoint(folder)
        return [f"{folder}: the checkpoint is whole"]
    inside = sorted({found.parent for mark in (MANIFEST, CARD) for found in folder.glob(f"**/{mark}")})
    if not inside:
        raise ZskdError(f"{folder} holds neither a transfer set nor a checkpoint")
    return [line for part in inside for line in verify_folder(part)]


def _verify_checkpoint(folder: Path) -> None:
    if sha256_file(folder / WEIGHTS) != read_card(folder).weights_sha256:
        raise ZskdError(f"{folder / WEIGHTS} is not the file that its card was written for: it was changed")
