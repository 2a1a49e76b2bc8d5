"""JSON files that one part of zskd hands to another: their models, checked when read and when made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zskd.core.errors import ZskdError, one_line
from zskd.core.files import read_json, write_json

if TYPE_CHECKING:
    from pydantic import JsonValue as JsonValue
else:  # a type that names itself is too much for the checker that the tests install
    JsonValue = Any
JsonObject = dict[str, JsonValue]
"""Settings as JSON holds them, in a file of a part that does not know their type."""
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ClassNames = Annotated[tuple[str, ...], Field(min_length=1)]
Shape = tuple[AtLeastOne, AtLeastOne, AtLeastOne]
"""Channels, height and width."""
Versions = dict[str, str]
Processor = dict[str, str | int]


class Artefact(BaseModel):
    """A JSON object: frozen, of known keys, all its numbers finite.

    Keys are written in the order of the fields. A field that has not been given is not written: a file of an
    earlier version, which lacks what is younger, is written as it was read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def to_json(self) -> JsonObject:
        """Return the object as JSON holds it."""
        return self.model_dump(mode="json", exclude_unset=True)


Kind = TypeVar("Kind", bound=Artefact)


def write_artefact(path: Path, artefact: Artefact) -> None:
    """Write an artefact as a whole file of indented JSON."""
    write_json(path, artefact.to_json())


def read_artefact(
    path: Path, kind: type[Kind], what: str, advice: str = "delete it and make it again"
) -> Kind:
    """Read an artefact.

    Args:
        path: the file.
        kind: its model.
        what: the file's role, for the message ("the card of a checkpoint").
        advice: what to do about a damaged one.

    Raises:
        ZskdError: missing, unreadable, or anything in it has another type or a value that cannot be.
    """
    return parse(read_json(path, what), kind, f"{path}, {what},", advice)


def parse(values: JsonObject, kind: type[Kind], what: str, advice: str) -> Kind:
    """Return JSON values as an artefact; nothing is converted on the way but lists to tuples.

    Raises:
        ZskdError: `what`, the first value that is wrong, why, and `advice`, in one line.
    """
    try:
        return kind.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise ZskdError(f"{what} is damaged ({first_mistake(error)}): {advice}") from error
    except ZskdError as error:  # of a part that checks itself
        raise ZskdError(f"{what} is damaged ({error}): {advice}") from error


def first_mistake(error: ValidationError) -> str:
    """Return where the first mistake is and what it is."""
    first: Any = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "its parts"
    return one_line(ValueError(f"{where}: {first['msg']}"))
