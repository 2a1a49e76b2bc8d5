"""The manifest of a transfer set: reading and verifying it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from zskd.core.errors import ZskdError
from zskd.core.files import (
    read_json,
    sha256_file,
)

MANIFEST = "manifest.json"
REAL = "real"
"""Method of a set that holds real images."""
FORMAT = "zskd-transfer-set/2"


class ShardEntry(TypedDict):
    """What a manifest says of one shard."""

    file: Annotated[str, Field(pattern=r"^shard-\d{5,}\.safetensors$")]
    count: Annotated[int, Field(ge=1)]
    sha256: str
    mean_kl: float
    mean_steps: float
    anchor_match: float
    missed: int


class ManifestFields(TypedDict):
    """What every manifest holds."""

    complete: bool
    count: int
    class_names: list[str]
    shape: Annotated[list[int], Field(min_length=3, max_length=3)]
    spec: dict[str, Any]
    teacher_sha256: str
    shards: list[ShardEntry]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a transfer set.

    Raises:
        ZskdError: missing, damaged, or of another format.
    """
    manifest = read_json(folder / MANIFEST, "the manifest of a transfer set")
    needed = {"format", "complete", "count", "class_names", "shape", "shards", "spec", "teacher_sha256"}
    if manifest.get("format") != FORMAT or not needed <= manifest.keys():
        raise ZskdError(f"{folder / MANIFEST} is not a manifest of format {FORMAT}: make the set again")
    try:
        TypeAdapter(ManifestFields).validate_python(manifest, strict=True)
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
