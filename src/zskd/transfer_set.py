"""Transfer sets on disk: immutable safetensors shards and a manifest.

The manifest is written anew after every shard and lists its SHA-256, so that whatever kills the writer,
the shards listed are whole and the others are made again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict

from zskd.errors import ZskdError
from zskd.files import (
    first_difference,
    make_folder,
    read_json,
    sha256_file,
    sha256_json,
    whole_file,
    write_json,
)
from zskd.machine import processor
from zskd.tensors import map_tensors, save_tensors
from zskd.types import Images, Labels, Logits, PerSample, SoftLabels
from zskd.versions import versions

MANIFEST = "manifest.json"
REAL = "real"
"""Method of a set that holds real images."""
_FORMAT = "zskd-transfer-set/2"


@dataclass(frozen=True)
class Shard:
    """Some images of a transfer set and what is known of each."""

    images: Images
    """Pixels inside the teacher's box."""
    targets: SoftLabels
    """What the teacher was to answer, y."""
    logits: Logits
    """What it does answer for the stored image."""
    anchors: Labels
    """The class k that the target was drawn for."""
    steps: Tensor
    """Optimisation steps used (N,), int32."""
    kl: PerSample
    """KL(y ‖ softmax(T(x)/τ)) of the stored image at the set's own τ, in nats."""

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: Tensor | slice) -> Shard:
        """Return some rows, by number, by mask, or as a view by a slice."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name, as they are stored."""
        return {f.name: getattr(self, f.name).contiguous() for f in fields(self)}

    @classmethod
    def join(cls, parts: Sequence[Shard]) -> Shard:
        """Put several together."""
        return cls(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    @staticmethod
    def bytes_per_image(shape: tuple[int, int, int], classes: int) -> int:
        """Return what one image takes on disk."""
        channels, height, width = shape
        return 4 * (channels * height * width + 2 * classes + 2) + 8


class ShardEntry(TypedDict):
    """What a manifest says of one shard."""

    file: Annotated[str, Field(pattern=r"^shard-\d{5,}\.safetensors$")]
    count: Annotated[int, Field(ge=1)]
    sha256: str
    mean_kl: float
    mean_steps: float
    anchor_match: float
    missed: int


def write_shard(folder: Path, number: int, shard: Shard, *, missed: int = 0) -> ShardEntry:
    """Write one shard as a whole file and return what a manifest says of it.

    Args:
        folder: of the set.
        number: of the shard.
        shard: images and what is known of them.
        missed: how many images, dropped ones included, used up their steps without meeting their target.
    """
    path = folder / f"shard-{number:05d}.safetensors"
    with whole_file(path) as temporary:
        save_tensors(shard.tensors(), temporary)
    return {
        "file": path.name,
        "count": len(shard),
        "sha256": sha256_file(path),
        "mean_kl": float(shard.kl.mean()),
        "mean_steps": float(shard.steps.float().mean()),
        "anchor_match": float((shard.logits.argmax(1) == shard.anchors).float().mean()),
        "missed": missed,
    }


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
                "format": _FORMAT,
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


class _Manifest(TypedDict):
    complete: bool
    count: int
    class_names: list[str]
    shape: Annotated[list[int], Field(min_length=3, max_length=3)]
    spec: dict[str, Any]
    teacher_sha256: str
    shards: list[ShardEntry]


class TransferSet:
    """A complete transfer set on disk, its shards mapped into memory and not copied.

    What it gives as shards are pages of the files: they must not be written to. `images` gives copies.

    Args:
        folder: with manifest and shards.
        verify: hash every shard once; only for files that this very process has hashed already may it be
            left out.
        first: take the beginning alone, so many images. In the interleaved order it is what a set of that
            count would be.

    Raises:
        ZskdError: missing, damaged, changed or unfinished, or smaller than `first`.
    """

    def __init__(self, folder: Path, *, verify: bool = True, first: int | None = None) -> None:
        self.folder, self._first = folder, first
        if verify:
            verify_transfer_set(folder)
        self.manifest = read_manifest(folder)
        if first is not None and not 1 <= first <= self.manifest["count"]:
            raise ZskdError(f"{folder} holds {self.manifest['count']:,} images: it has no first {first:,}")
        left = self.manifest["count"] if first is None else first
        self._shards: list[Shard] = []
        for entry in self.manifest["shards"]:
            if left > 0:
                self._shards.append(self._open(entry).select(slice(left)))
                left -= entry["count"]
        self._starts = torch.tensor([0] + [len(shard) for shard in self._shards]).cumsum(0)
        self.labels = torch.cat([shard.anchors for shard in self._shards])
        """The class that each image was made for, or that a real one shows (N,)."""

    def _open(self, entry: dict[str, Any]) -> Shard:
        path, count = self.folder / entry["file"], entry["count"]
        tensors = map_tensors(path)
        wanted = {
            "images": (count, *self.shape),
            "targets": (count, len(self.class_names)),
            "logits": (count, len(self.class_names)),
            **dict.fromkeys(("anchors", "steps", "kl"), (count,)),
        }
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != wanted:
            raise ZskdError(f"{path} has not the tensors that the manifest tells of: make the set again")
        return Shard(**tensors)

    def __reduce__(self) -> tuple[Any, ...]:
        """Be sent to other processes as a folder, not as images."""
        return _reopened, (self.folder, self._first)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._shards)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.manifest["class_names"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        channels, height, width = self.manifest["shape"]
        return channels, height, width

    @property
    def image_bytes(self) -> int:
        """What all images take in memory."""
        return len(self) * math.prod(self.shape) * 4

    def fingerprint(self) -> str:
        """Return a SHA-256 by which these images are known."""
        return sha256_json({"shards": [e["sha256"] for e in self.manifest["shards"]], "count": len(self)})

    def all_images(self) -> Images:
        """Return all images as one copy in memory."""
        return torch.cat([shard.images for shard in self._shards])

    def images(self, rows: Tensor) -> Images:
        """Return the images of the given rows (N,), in that order.

        Raises:
            ZskdError: a row is negative or beyond the set.
        """
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise ZskdError(f"{self.folder} holds rows 0 to {len(self) - 1}")
        gathered = torch.empty(len(rows), *self.shape)
        owner = torch.bucketize(rows, self._starts[1:], right=True)
        for number in set(owner.tolist()):
            here = owner == number
            gathered[here] = self._shards[number].images[rows[here] - self._starts[number]]
        return gathered


def _reopened(folder: Path, first: int | None) -> TransferSet:
    return TransferSet(folder, verify=False, first=first)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a transfer set.

    Raises:
        ZskdError: missing, damaged, or of another format.
    """
    manifest = read_json(folder / MANIFEST, "the manifest of a transfer set")
    needed = {"format", "complete", "count", "class_names", "shape", "shards", "spec", "teacher_sha256"}
    if manifest.get("format") != _FORMAT or not needed <= manifest.keys():
        raise ZskdError(f"{folder / MANIFEST} is not a manifest of format {_FORMAT}: make the set again")
    try:
        TypeAdapter(_Manifest).validate_python(manifest, strict=True)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ZskdError(f"{folder / MANIFEST} is damaged at {where}: make the set again") from error
    return manifest


def verify_transfer_set(folder: Path) -> int:
    """Hash every shard again and compare with the manifest.

    Returns:
        The number of shards.

    Raises:
        ZskdError: a shard is missing, damaged, or has been changed.
    """
    manifest = read_manifest(folder)
    for entry in manifest["shards"]:
        path = folder / entry["file"]
        if not path.is_file():
            raise ZskdError(f"{path} is missing: run the command that made the set again")
        if sha256_file(path) != entry["sha256"]:
            raise ZskdError(f"{path} is not the file that was written: delete it and make the set again")
    if not manifest["complete"]:
        raise ZskdError(f"{folder} is not finished: run the command that makes it again and it goes on")
    return len(manifest["shards"])
