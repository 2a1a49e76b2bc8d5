"""Check transfer sets and checkpoints on disk against their hashes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.core.reading import one_line_errors
from zskd.core.tensors import read_tensors
from zskd.models.checkpoint import CARD, WEIGHTS, check_finite, load_checkpoint, read_card
from zskd.models.factory import Layers, Named, innermost
from zskd.models.libraries.onnx import OnnxNetwork
from zskd.run.metrics import metrics_of
from zskd.synthesis.spec import check_spec
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import MANIFEST


@dataclass(frozen=True)
class Whole:
    """A transfer set or a checkpoint whose files have the recorded hashes."""

    folder: Path
    shards: int | None
    """Of a transfer set; None: it is a checkpoint."""

    @property
    def kind(self) -> str:
        """Return what it is: `set` or `checkpoint`."""
        return "checkpoint" if self.shards is None else "set"

    def __str__(self) -> str:
        what = "the checkpoint is whole" if self.shards is None else f"{self.shards} shards are whole"
        return f"{self.folder}: {what}"


def verify_folder(folder: str | Path) -> list[str]:
    """Verify a transfer set, a checkpoint, or all of them in the folder of a run.

    Args:
        folder: of one of them, or of a run.

    Returns:
        One line for each transfer set or checkpoint.

    Raises:
        ZskdError: as for `verified`.
    """
    return [str(one) for one in verified(Path(folder))]


def verified(folder: Path) -> list[Whole]:
    """Return the transfer sets and checkpoints of a folder, verified.

    Raises:
        ZskdError: one of them is damaged, or the folder has neither, or is that of a finished run and lacks a
            network. The sets of a run may be deleted.
    """
    if (folder / MANIFEST).is_file():
        manifest = TransferSet(folder).manifest
        with one_line_errors(
            f"{folder / MANIFEST} has settings that cannot be read", "make the set again", also_told=True
        ):
            check_spec(manifest.spec)
        return [Whole(folder, len(manifest.shards))]
    if (folder / CARD).is_file():
        _verify_checkpoint(folder)
        return [Whole(folder, None)]
    marks = sorted(_marks(folder))
    for found in marks:
        if not found.is_file():
            raise ZskdError(f"{found} is no file: make what its folder holds again")
    inside = sorted({found.parent for found in marks})
    if not inside:
        raise ZskdError(
            f"{folder} holds neither a transfer set nor a checkpoint: give the folder of one, or of a run"
        )
    if (metrics := metrics_of(folder)) is not None:
        for network in ("teacher", *(f"students/{name}" for name in metrics.students)):
            if not (folder / network / CARD).exists():
                raise ZskdError(
                    f"{folder / network} has no {CARD}: run the same recipe again, which makes it"
                )
    return [one for part in inside for one in verified(part)]


def _marks(folder: Path) -> Iterator[Path]:
    """Yield the manifests and cards in a folder and in those that are linked there, of each folder once."""
    seen = set(folder.resolve().parents)  # a link to one of them leads out of the run
    for place, folders, files in os.walk(folder, followlinks=True):
        if (real := Path(place).resolve()) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place, name) for name in (*folders, *files) if name in (MANIFEST, CARD))


def _verify_checkpoint(folder: Path) -> None:
    """Open a network that the card describes; of others, which need code or a library, check the files."""
    card, weights = read_card(folder), folder / WEIGHTS
    if sha256_file(weights) != card.weights_sha256:
        raise ZskdError(f"{weights} was changed after its card was written: make the checkpoint again")
    inner = innermost(card.architecture)
    if isinstance(inner, OnnxNetwork):
        inner.read(folder)
    if isinstance(inner, Named | Layers):
        load_checkpoint(folder)
    else:
        check_finite(read_tensors(weights), weights)
