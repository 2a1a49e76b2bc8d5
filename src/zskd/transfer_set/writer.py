"""Transfer sets on disk: immutable safetensors shards and a manifest.

The manifest is written anew after every shard and lists its SHA-256, so that whatever kills the writer,
the shards listed are whole and the others are made again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from zskd.core.device import processor
from zskd.core.errors import ZskdError
from zskd.core.files import (
    first_difference,
    make_folder,
    read_json,
    sha256_file,
    write_json,
)
from zskd.core.versions import versions
from zskd.transfer_set.manifest import FORMAT, MANIFEST, ShardEntry


class Writer:
    """Lists the shards of a folder; what is already there of the same provenance is kept.

    Args:
        folder: of one transfer set.
        provenance: everything that determines its bytes.
        class_names: of the teacher.
        shape: channels, height and width.

    Raises:
        ZskdError: the folder holds a transfer set of another provenance.
    """

    def __init__(
        self,
        folder: Path,
        provenance: dict[str, Any],
        *,
        class_names: tuple[str, ...],
        shape: tuple[int, int, int],
    ) -> None:
        self._folder = make_folder(folder)
        self._provenance: dict[str, Any] = json.loads(json.dumps(provenance))
        self._head = {"class_names": list(class_names), "shape": list(shape)}
        self.complete = False
        """Whether the set was finished before; it is then never written again."""
        self.done: dict[int, ShardEntry] = {}
        """The shards that are whole, by number."""
        if (folder / MANIFEST).is_file():
            self._continue(read_json(folder / MANIFEST, "the manifest of a transfer set"))

    def add(self, number: int, entry: ShardEntry) -> None:
        """List a shard that has been written."""
        self.done[number] = entry
        self._write(complete=False)

    def finish(self, outcome: dict[str, Any] | None = None) -> None:
        """Mark the set as complete and note what became of it."""
        self._write(complete=True, **(outcome or {}))

    def _write(self, *, complete: bool, **outcome: Any) -> None:
        shards = [self.done[number] for number in sorted(self.done)]
        count = sum(shard["count"] for shard in shards)

        def mean(fact: Literal["mean_kl", "mean_steps", "anchor_match"]) -> float:
            return sum(shard[fact] * shard["count"] for shard in shards) / max(count, 1)

        write_json(
            self._folder / MANIFEST,
            {
                "format": FORMAT,
                "complete": complete,
                "count": count,
                "mean_kl": mean("mean_kl"),
                "mean_steps": mean("mean_steps"),
                "anchor_match": mean("anchor_match"),
                **outcome,
                **self._head,
                **self._provenance,
                "versions": versions(),
                "processor": processor(),
                "shards": shards,
            },
        )

    def _continue(self, manifest: dict[str, Any]) -> None:
        made_with = {} if manifest["complete"] else {"versions": versions(), "processor": processor()}
        for key, value in (self._provenance | made_with).items():
            if manifest.get(key) != value:
                what = first_difference(manifest.get(key), value, key)
                raise ZskdError(
                    f"{self._folder} holds a transfer set made with another {what}: choose another folder, "
                    "or delete this one"
                )
        for shard in manifest.get("shards", ()):
            path = self._folder / shard["file"]
            if path.is_file() and sha256_file(path) == shard["sha256"]:
                self.done[int(path.stem.split("-")[1])] = shard
        self.complete = bool(manifest["complete"]) and len(self.done) == len(manifest["shards"])
