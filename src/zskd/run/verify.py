"""Check transfer sets and checkpoints on disk against their hashes."""

from __future__ import annotations

from pathlib import Path

from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.models.checkpoint import CARD, WEIGHTS, read_card
from zskd.transfer_set.manifest import MANIFEST, verify_transfer_set


def verify_folder(folder: Path) -> list[str]:
    """Verify a transfer set, a checkpoint, or all of them in the folder of a run.

    Returns:
        One line for each transfer set or checkpoint.

    Raises:
        ZskdError: one of them is damaged, or the folder has neither.
    """
    if (folder / MANIFEST).is_file():
        return [f"{folder}: {verify_transfer_set(folder)} shards are whole"]
    if (folder / CARD).is_file():
        _verify_checkpoint(folder)
        return [f"{folder}: the checkpoint is whole"]
    inside = sorted({found.parent for mark in (MANIFEST, CARD) for found in folder.glob(f"**/{mark}")})
    if not inside:
        raise ZskdError(
            f"{folder} holds neither a transfer set nor a checkpoint: give the folder of one, or of a run"
        )
    return [line for part in inside for line in verify_folder(part)]


def _verify_checkpoint(folder: Path) -> None:
    if sha256_file(folder / WEIGHTS) != read_card(folder).weights_sha256:
        raise ZskdError(
            f"{folder / WEIGHTS} was changed after its card was written: make the checkpoint again"
        )
