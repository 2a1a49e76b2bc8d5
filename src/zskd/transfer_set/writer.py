"""The writer of a transfer set's manifest. Shards are immutable safetensors files.

The manifest is written again after every shard and lists its SHA-256. If the process is killed, the listed
shards are complete, and the others are made again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from zskd.core.artefact import JsonValue, write_artefact
from zskd.core.device import processor
from zskd.core.errors import ZskdError
from zskd.core.files import first_difference, make_folder, sha256_file
from zskd.core.passes import Passes
from zskd.core.tensors import map_tensors
from zskd.core.versions import versions
from zskd.transfer_set.manifest import (
    FORMAT,
    MANIFEST,
    Manifest,
    Provenance,
    ShardEntry,
    class_entropy,
    read_manifest,
)


class Writer:
    """Lists the shards of a folder in its manifest; shards of the same provenance in it stay listed.

    Args:
        folder: of one transfer set.
        provenance: all that determines its bytes.
        class_names: of the teacher.
        shape: channels, height and width of the images.
        asked: passes before the first image was made; those of a set that was begun are in its manifest.

    Raises:
        ZskdError: the folder holds a transfer set of another provenance, or its manifest is damaged.
    """

    def __init__(
        self,
        folder: Path,
        provenance: Provenance,
        *,
        class_names: tuple[str, ...],
        shape: tuple[int, int, int],
        asked: Passes | None = None,
    ) -> None:
        self._folder, self._provenance = make_folder(folder), provenance
        self._class_names, self._shape, self._asked = class_names, shape, asked
        self.complete = False
        """Whether the folder holds a complete set, which is never written again."""
        self.done: dict[int, ShardEntry] = {}
        """Entries of the complete shards, by number."""
        if (folder / MANIFEST).is_file():
            self._continue(read_manifest(folder))

    def add(self, number: int, entry: ShardEntry) -> None:
        """List a shard that has been written."""
        self.done[number] = entry
        self._write(complete=False)

    def finish(self, *, dropped: int = 0) -> None:
        """Mark the set as complete, and record how many images missed their target or were dropped, and which
        classes the teacher predicts.

        Args:
            dropped: images that were made and are in no shard.
        """
        missed = sum(shard.missed for shard in self.done.values())
        predicted = self._predicted()
        self._write(
            complete=True,
            missed=missed,
            dropped=dropped,
            predicted=predicted,
            predicted_entropy=class_entropy(predicted),
        )

    def _predicted(self) -> tuple[int, ...]:
        """Return the images by the class that the teacher predicts, from the logits of all shards."""
        counts = torch.zeros(len(self._class_names), dtype=torch.int64)
        for shard in self.done.values():
            logits = map_tensors(self._folder / shard.file)["logits"]
            counts += torch.bincount(logits.argmax(1), minlength=len(counts))
        return tuple(counts.tolist())

    def _write(self, *, complete: bool, **outcome: object) -> None:
        shards = tuple(self.done[number] for number in sorted(self.done))
        count = sum(shard.count for shard in shards)

        def mean(fact: Literal["mean_kl", "mean_steps", "anchor_match"]) -> float:
            return float(sum(getattr(shard, fact) * shard.count for shard in shards)) / max(1, count)

        provenance = self._provenance
        given: dict[str, Any] = {
            key: getattr(provenance, key) for key in provenance.model_fields_set
        } | outcome
        if self._asked is not None:
            given["asked"] = self._asked
        manifest = Manifest(
            format=FORMAT,
            complete=complete,
            count=count,
            mean_kl=mean("mean_kl"),
            mean_steps=mean("mean_steps"),
            anchor_match=mean("anchor_match"),
            class_names=self._class_names,
            shape=self._shape,
            versions=versions(),
            processor=processor(),
            shards=shards,
            **given,
        )
        write_artefact(self._folder / MANIFEST, manifest)

    def _continue(self, manifest: Manifest) -> None:
        self._asked = manifest.asked
        for shard in manifest.shards:
            path = self._folder / shard.file
            if path.is_file() and sha256_file(path) == shard.sha256:
                self.done[int(path.stem.split("-")[1])] = shard
        self.complete = manifest.complete and len(self.done) == len(manifest.shards)
        stored, now = manifest.to_json(), self._provenance.to_json()
        if not self.complete:  # the missing shards must be made as the stored ones were
            # made images take one thread on whatever cores; others are labelled with all threads
            made = self._provenance.resolved is not None
            kind = {key: value for key, value in processor().items() if key != "cores" or not made}
            now |= {"versions": dict(versions()), "processor": {**manifest.processor, **kind}}
        # manifests of earlier versions lack the code of a teacher
        code = self._provenance.code or {}
        kept: dict[str, JsonValue] = {**(manifest.code or {})}
        stored["code"], now["code"] = kept, kept | {name: code[name] for name in kept.keys() & code.keys()}
        for key, value in now.items():
            if stored.get(key) != value:
                what = first_difference(stored.get(key), value, key)
                raise ZskdError(
                    f"{self._folder} holds a transfer set made with another {what}: choose another folder, "
                    "or delete this one"
                )
