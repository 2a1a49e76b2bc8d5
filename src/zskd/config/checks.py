"""The base class of settings. It checks all settings: from Python, YAML or the command line."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from reprlib import repr as short
from typing import Any, ClassVar, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from zskd.core.errors import ZskdError

LAST_SEED = 2**63 - 1
_LARGEST = 2.0**63
"""Of any integer of the settings: neither torch nor JSON takes larger ones."""
MethodSettings = dict[str, float | bool | str]
"""Settings of one method: name -> value. The method checks them."""

C = TypeVar("C", bound="Config")
_partial: ContextVar[bool] = ContextVar("partial", default=False)


@contextmanager
def partial() -> Iterator[None]:
    """Leave out, inside the block, what settings must have in common: a group holds only some of its values.

    So is a group of options before the recipe and its preset are known, with which it is checked as a whole.
    """
    token = _partial.set(True)
    try:
        yield
    finally:
        _partial.reset(token)


class Config:
    """Base of all settings: frozen dataclasses whose fields are checked against their types.

    A subclass checks ranges in `__post_init__`, after the call of `super().__post_init__()`; and values that
    must fit each other only where `is_whole`.
    """

    section: ClassVar[str] = ""
    """Name of this group of settings on the command line: "distill.augment"."""

    def __post_init__(self) -> None:
        """Convert every field to its type: a list becomes a tuple, an integer a float.

        Raises:
            ZskdError: a value does not fit the type of its field.
        """
        for one in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            if value is not one.default:  # a default is of its type: no adapter needs to be built for it
                object.__setattr__(self, one.name, self.checked(one.name, value))

    @property
    def is_whole(self) -> bool:
        """Whether the values are all there, so that they can be compared with each other."""
        return not _partial.get()

    @classmethod
    def checked(cls, name: str, value: Any) -> Any:
        """Return a value, converted to the type of a field.

        Raises:
            ZskdError: the value does not fit the type.
        """
        hint = _hints(cls)[name]  # type: ignore[arg-type]
        if getattr(value, "ndim", None) == 0:
            value = value.item()  # a number of NumPy or torch
        if isinstance(hint, type) and issubclass(hint, Config):
            if not isinstance(value, Mapping | hint):
                raise ZskdError(f"{cls.option(name)} is a group of settings, not {short(value)}")
            return from_values(hint, value, "the settings") if isinstance(value, Mapping) else value
        adapter = _adapter(hint)
        try:
            if isinstance(value, bool) and not _fits(adapter, value):
                numeric = _fits(adapter, 1) or _fits(adapter, 0.5)
                why = "a number" if numeric else 'another value; in YAML, a text such as "no" is in quotes'
                raise ZskdError(f"{cls.option(name)} is {value}: it should not be true or false, but {why}")
            if _is_too_large(value):
                raise ZskdError(f"{cls.option(name)} is an integer of more than 64 bits: give a smaller one")
            return adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            index = "".join(f".{part}" for part in first["loc"] if isinstance(part, int))
            why = " ".join(first["msg"].replace("Input should", "it should").split())
            raise ZskdError(f"{cls.option(name)}{index} is {short(first['input'])}: {why}") from None

    @classmethod
    def option(cls, name: str) -> str:
        """Return the command-line option of a field: "--distill.batch-size"."""
        return f"--{cls.section}{'.' if cls.section else ''}{name}".replace("_", "-")

    def check_range(self, *names: str, low: float, high: float = math.inf, above: bool = False) -> None:
        """Check that fields are finite and in [low, high], or in (low, high] when `above`.

        A field that is None is skipped. For a tuple, every value is checked.

        Raises:
            ZskdError: a value is not; the message names the option.
        """
        for name in names:
            found = getattr(self, name)
            for value in found if isinstance(found, tuple) else (found,):
                if value is not None:
                    check_range(self.option(name), value, low, high, above=above)


def check_range(
    option: str, value: float, low: float, high: float = math.inf, *, above: bool = False
) -> None:
    """Check that a number is finite and in [low, high], or in (low, high] when `above`.

    Raises:
        ZskdError: it is not; the message names the option.
    """
    usable = abs(value) <= _LARGEST if isinstance(value, int) else math.isfinite(value)
    if not usable or not (low < value <= high if above else low <= value <= high):
        bound = f"above {low:g}" if above else f"at least {low:g}"
        top = f" and at most {high:g}" if high != math.inf else ""
        raise ZskdError(f"{option} is {short(value)}: it must be {bound}{top}")


def from_values(kind: type[C], values: Mapping[str, Any], source: str) -> C:
    """Return settings from nested plain values.

    Args:
        kind: class of the settings.
        values: as in a YAML file; an absent setting has its default.
        source: the file, for messages.

    Raises:
        ZskdError: an unknown key (the nearest is suggested), a wrong type, or a value out of range.
    """
    check_keys(values, kind, source)
    for one in dataclasses.fields(kind):  # type: ignore[arg-type]
        absent = one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
        if absent and one.name not in values:
            raise ZskdError(f"{source}: the key {one.name} is missing")
    return kind(**{name: kind.checked(name, value) for name, value in values.items()})


def check_keys(values: Mapping[str, Any], kind: type, source: str, path: str = "") -> None:
    """Check that every key is a setting.

    Args:
        values: nested.
        kind: dataclass whose fields are the allowed keys.
        source: the file, for messages.
        path: key of `values` in the file, with a final dot.

    Raises:
        ZskdError: an unknown key; the message names the file, the key and the nearest setting.
    """
    hints = {one.name: _hints(kind)[one.name] for one in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in hints:
            raise ZskdError(f"{source}: unknown key {path}{key}{suggestion(str(key), list(hints), path)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                if isinstance(value, hints[key]):
                    continue
                raise ZskdError(f"{source}: {path}{key} is a group of settings, not {short(value)}")
            check_keys(value, hints[key], source, f"{path}{key}.")


def as_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under the names of fields: options are typed with hyphens."""
    return {name.replace("-", "_"): value for name, value in settings.items()}


def suggestion(name: str, choices: Collection[str], path: str = "") -> str:
    """Return the end of a message about an unknown name: the nearest choice, or all choices."""
    if not choices:
        return ": there is nothing to choose"
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f": did you mean {path}{near[0]}?" if near else f": choose one of {', '.join(choices)}"


def _is_too_large(value: Any) -> bool:
    """Return whether an integer in a value is one that no setting can have."""
    if isinstance(value, int):
        return abs(value) > _LARGEST
    if isinstance(value, Mapping):
        return any(map(_is_too_large, value.values()))
    return isinstance(value, list | tuple) and any(map(_is_too_large, value))


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def _adapter(hint: Any) -> Any:
    """Return what converts a value to a type; cached, because building one is slow."""
    return TypeAdapter(hint)


def _fits(adapter: Any, value: Any) -> bool:
    """Return whether a value has the type without conversion."""
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True
