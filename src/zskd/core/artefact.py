"""JSON files that one part of zskd writes and another reads: models that are checked in both directions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from zskd.core.errors import ZskdError, has_hidden, one_line
from zskd.core.files import write_json
from zskd.core.reading import read_json

if TYPE_CHECKING:
    from pydantic import JsonValue as JsonValue
else:  # the type checker of the tests does not support recursive types
    JsonValue = Any
JsonObject = dict[str, JsonValue]
"""Settings as plain JSON, for code that does not know their type."""
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]
Joules = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
Fraction = Annotated[float, Field(ge=0, le=1)]
LARGEST_IMAGE = 1 << 24
"""Numbers of one image: 2,300 × 2,300 pixels in colour."""


def _plain_text(text: str) -> str:
    if has_hidden(text):
        raise ValueError("it holds control characters")
    return text


def _of_an_image(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    if math.prod(shape) > LARGEST_IMAGE:
        raise ValueError(f"images of more than {LARGEST_IMAGE:,} numbers are too large")
    return shape


Name = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_plain_text)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ClassNames = Annotated[tuple[Name, ...], Field(min_length=1, max_length=1_000_000)]
Shape = Annotated[tuple[AtLeastOne, AtLeastOne, AtLeastOne], AfterValidator(_of_an_image)]
"""Channels, height and width."""
Versions = dict[str, str]
Processor = dict[str, str | int]


class Artefact(BaseModel):
    """A JSON object with fixed keys and finite numbers; immutable.

    Keys are written in the order of the fields. A field that was not set is not written. So a file of an
    earlier version, which lacks newer keys, is written back unchanged.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def to_json(self) -> JsonObject:
        """Return the object as plain JSON values."""
        return self.model_dump(mode="json", exclude_unset=True)


Kind = TypeVar("Kind", bound=Artefact)


def write_artefact(path: Path, artefact: Artefact) -> None:
    """Write an artefact as indented JSON, atomically (see `whole_file`).

    Raises:
        ZskdError: the file cannot be written.
    """
    write_json(path, artefact.to_json())


def read_artefact(path: Path, kind: type[Kind], what: str, advice: str) -> Kind:
    """Read an artefact.

    Args:
        path: the file.
        kind: class of the artefact.
        what: the file's role, for the message ("the card of a checkpoint").
        advice: what to do when the file is damaged; end of the message.

    Raises:
        ZskdError: the file is missing or unreadable, or a value has a wrong type or is out of range.
    """
    return parse(read_json(path, what, advice), kind, f"{path}, {what},", advice)


def parse(values: JsonObject, kind: type[Kind], what: str, advice: str) -> Kind:
    """Return JSON values as an artefact. No type is converted, except lists to tuples.

    Raises:
        ZskdError: a value is wrong; the message names `what`, the first wrong value and `advice`.
    """
    try:
        return kind.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise ZskdError(f"{what} is damaged ({first_mistake(error)}): {advice}") from error
    except ZskdError as error:  # raised by a validator of the artefact
        raise ZskdError(f"{what} is damaged ({error}): {advice}") from error
    except (RecursionError, OverflowError) as error:
        raise ZskdError(f"{what} is damaged ({one_line(error)}): {advice}") from error


def first_mistake(error: ValidationError) -> str:
    """Return the field and the message of the first validation error, in one line."""
    first: Any = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "its parts"
    return one_line(ValueError(f"{where}: {first['msg']}"))
