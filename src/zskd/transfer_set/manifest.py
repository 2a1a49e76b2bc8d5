"""The manifest of a transfer set: its schema, how it is read, and how the listed shards are verified."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from zskd.core.artefact import (
    Artefact,
    AtLeastOne,
    ClassNames,
    Count,
    Fraction,
    JsonObject,
    Processor,
    Sha256,
    Shape,
    Versions,
    parse,
)
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.core.passes import Passes, sum_passes
from zskd.core.reading import read_json

MANIFEST = "manifest.json"
REAL = "real"
"""Method of a set that holds real images."""
PICTURES = "pictures"
"""Method of a set that holds pictures of the user's, with labels or without."""
FORMAT: Final = "zskd-transfer-set/2"


class ShardEntry(Artefact):
    """The manifest's entry of one shard."""

    file: Annotated[str, Field(pattern=r"^shard-\d{5,}\.safetensors$")]
    count: Count
    """Images in it; 0 where all were dropped."""
    sha256: Sha256
    """Of the file."""
    mean_kl: float
    """Mean of KL(y ‖ softmax(T(x)/τ)) in nats; 0 without images, as the next two."""
    mean_steps: Annotated[float, Field(ge=0)]
    anchor_match: Fraction
    """Share of the images for which the teacher predicts the class that they were made for."""
    missed: Count
    """Images, dropped ones included, that took all their steps without meeting their target."""
    passes: Passes | None = None
    """Through the teacher, by stage; absent in files of older versions."""


class Resolved(Artefact):
    """Settings that depend on the machine and change rounding."""

    threads: AtLeastOne
    device: str
    dtype: str
    layout: Literal["channels_first", "channels_last"]
    merged: tuple[str, ...]
    """Layers of the teacher that others were fused into."""
    batch_size: AtLeastOne | None = None
    """Images optimised together; absent where it is that of the settings, as the next."""
    shard_size: AtLeastOne | None = None
    """Images in one file."""
    storage: Literal["float16", "uint8"] | None = None
    """How pixels are stored; absent for float32."""
    flip: Fraction | None = None
    """Probability of mirrored images at each step; absent where the settings alone say it."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Adam's, which a search found; absent where it is that of the settings."""
    coupled: Literal[True] | None = None
    """Present where the objective couples the images of a batch, which share statistics: then an image is the
    same only with its whole shard."""


def _has_method(spec: JsonObject) -> JsonObject:
    if not isinstance(spec.get("method"), str):
        raise ValueError("it has no method")
    return spec


Settings = Annotated[JsonObject, AfterValidator(_has_method)]


class Provenance(Artefact):
    """All that determines the bytes of a set, apart from versions and processor."""

    spec: Settings
    """A `SetSpec` as JSON; for real images, how they were drawn.

    A plain mapping, because `SetSpec` belongs to the layer above; `synthesis.spec.read_spec` converts it.
    """
    teacher_sha256: Sha256
    """Fingerprint of the teacher."""
    resolved: Resolved | None = None
    """None for real images."""
    data_sha256: Sha256 | None = None
    """For real images: hash of the images that they were drawn from."""
    code: dict[str, Sha256 | None] | None = None
    """For a set made with the user's own code: hash of each source file, by the name of the code."""
    files: dict[str, Sha256] | None = None
    """For a method that reads more than the teacher: hash of it, by the setting that names it."""


class Manifest(Artefact):
    """The manifest of a transfer set."""

    format: Literal["zskd-transfer-set/2"]
    complete: bool
    """Whether all shards are written; a complete set is never written again."""
    count: Count
    """Images in the shards listed; at least one in a complete set."""
    mean_kl: float
    """As for a shard, over all images; so are the next two."""
    mean_steps: Annotated[float, Field(ge=0)]
    anchor_match: Fraction
    missed: Count | None = None
    """Sum over the shards; None until the set is complete."""
    dropped: Count | None = None
    """Images that were made and then dropped, because they missed their target."""
    predicted: tuple[Count, ...] | None = None
    """Images by the class that the teacher predicts for them; None until the set is complete, and in sets of
    earlier versions."""
    predicted_entropy: Fraction | None = None
    """Entropy of their shares, relative to its largest value ln K: 1 where all classes have as many."""
    class_names: ClassNames
    shape: Shape
    """Channels, height and width of the images."""
    spec: Settings
    """As for `Provenance`; so are the next five."""
    teacher_sha256: Sha256
    resolved: Resolved | None = None
    data_sha256: Sha256 | None = None
    code: dict[str, Sha256 | None] | None = None
    files: dict[str, Sha256] | None = None
    asked: Passes | None = None
    """Passes before the first image was made, for what the teacher was asked; absent where it was not."""
    versions: Versions
    """Of the software, by package."""
    processor: Processor
    shards: tuple[ShardEntry, ...]

    @model_validator(mode="after")
    def _adds_up(self) -> Manifest:
        if sum(shard.count for shard in self.shards) != self.count:
            raise ValueError("count is not that of the shards")
        if self.complete and not self.count:
            raise ValueError("it is complete and has no images")
        return self

    @property
    def method(self) -> str:
        """How the images were made: a key of `METHODS`, `file.py:Name`, `REAL` or `PICTURES`."""
        return str(self.spec["method"])

    @property
    def passes(self) -> Passes | None:
        """Through the teacher, by stage; None for real images and in files of older versions."""
        counted = [shard.passes for shard in self.shards if shard.passes is not None]
        return sum_passes([self.asked or {}, *counted]) if len(counted) == len(self.shards) else None


def class_entropy(counts: Sequence[int]) -> float:
    """Return the entropy of the shares of K ≥ 2 classes, relative to its largest value ln K: 0 to 1."""
    shares = [count / sum(counts) for count in counts if count]
    return min(1.0, abs(sum(share * math.log(share) for share in shares)) / math.log(len(counts)))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a transfer set.

    Raises:
        ZskdError: missing, damaged, or of another format.
    """
    path, what, advice = folder / MANIFEST, "the manifest of a transfer set", "make the set again"
    values = read_json(path, what, advice)
    if values.get("format") != FORMAT:
        raise ZskdError(f"{path} is not a manifest of format {FORMAT}: {advice}")
    return parse(values, Manifest, f"{path}, {what},", advice)


def verify_transfer_set(folder: Path) -> int:
    """Hash every shard again and compare with the manifest.

    Returns:
        The number of shards.

    Raises:
        ZskdError: the manifest or a shard is missing, damaged or changed, or the set is unfinished.
    """
    manifest = read_manifest(folder)
    for entry in manifest.shards:
        path = folder / entry.file
        if not path.is_file():
            raise ZskdError(f"{path} is missing: run the command that made the set again")
        if sha256_file(path) != entry.sha256:
            raise ZskdError(f"{path} is not the file that was written: delete it and make the set again")
    if not manifest.complete:
        raise ZskdError(f"{folder} is not finished: run the command that makes it again to continue")
    return len(manifest.shards)
