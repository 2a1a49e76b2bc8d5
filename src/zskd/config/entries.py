"""What a registry is made of: entries, families of names, and the look-up of a name with arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from zskd.config.checks import suggestion
from zskd.config.patterns import fill_pattern, match_pattern
from zskd.core.code import import_object, is_code, parse_call
from zskd.core.errors import ZskdError


@dataclass(frozen=True)
class Entry:
    """One entry of a registry."""

    target: str
    """The object, as `package.module:Name`; arguments may follow, as in a name."""
    summary: str
    """Short description with source."""


@dataclass(frozen=True)
class Family(Entry):
    """An entry for many names that differ in numbers. Its key is a pattern: `resnet{depth}`."""

    example: str
    """One of the names."""


@dataclass(frozen=True)
class PixelRule(Entry):
    """A rule for pixels that leave the input box."""

    couples: bool = False
    """Whether the result for an image depends on the other images of its batch."""


@dataclass(frozen=True)
class Control:
    """An arm that differs from the main arm only in its method."""

    method: str
    """Name of its method in `METHODS`."""
    start: str | None
    """Start image; None: that of the main arm."""
    summary: str
    """Name in tables and figures."""


E = TypeVar("E", Entry, PixelRule, Control)


class Registry(Mapping[str, E], Generic[E]):
    """The entries of one kind, by name.

    Args:
        kind: name of the kind, for messages.
        entries: name -> entry, in the order of the listings.
        takes_code: whether a name may also refer to the user's own code.
        takes_arguments: whether arguments may follow a name: `resnet20(norm=group)`.

    The key of a family is a pattern, `resnet{depth}`. It stands for all names with a number in that place,
    and the number becomes an argument. An entry with exactly that name comes before a family.
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, E],
        *,
        takes_code: bool = False,
        takes_arguments: bool = False,
    ) -> None:
        self.kind, self.takes_code, self.takes_arguments = kind, takes_code, takes_arguments
        self._entries: dict[str, E] = dict(entries)

    def __getitem__(self, name: str) -> E:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def examples(self) -> tuple[str, ...]:
        """One name for each entry; for a family, its example."""
        return tuple(one.example if isinstance(one, Family) else key for key, one in self._entries.items())

    def knows(self, name: str) -> bool:
        """Return whether a name without arguments is an entry, or one of a family."""
        return self._find(name)[0] is not None

    def check(self, name: str, option: str) -> None:
        """Check that a name is an entry, or refers to code where this is allowed.

        Args:
            name: the given name, with its arguments if it has any.
            option: the command-line option, for the message: "--method".

        Raises:
            ZskdError: unknown name, and the message suggests the nearest, or lists all; or wrong arguments.
        """
        self._resolve(name, option)

    @staticmethod
    def label(name: str) -> str:
        """Return the name for files and tables: the name itself, or the name of the object in code."""
        return name.rpartition(":")[2]

    def load(self, name: str) -> Any:
        """Import the object of a name; the arguments in the name are bound to it.

        Raises:
            ZskdError: unknown name, wrong arguments, or code that cannot be imported.
        """
        found, arguments = self.load_with_arguments(name)
        return partial(found, **arguments) if arguments else found

    def load_with_arguments(self, name: str) -> tuple[Any, dict[str, Any]]:
        """Import the object of a name, and return it with the arguments in the name.

        Raises:
            ZskdError: as for `load`.
        """
        target, arguments = self._resolve(name, f"the {self.kind}")
        return import_object(target), arguments

    def _resolve(self, text: str, option: str) -> tuple[str, dict[str, Any]]:
        """Return the import string of a name, and the arguments of its entry, its numbers and its text."""
        name, given = parse_call(text)
        if given and not self.takes_arguments:
            raise ZskdError(f"{option} is {text!r}, but the name of a {self.kind} takes no arguments")
        entry, numbers = self._find(name)
        if entry is None:
            if not (self.takes_code and is_code(name)):
                raise self._unknown(name, option)
            return name, given
        target, bound = parse_call(entry.target) if isinstance(entry, Entry) else ("", {})
        bound |= numbers
        if twice := bound.keys() & given.keys():
            raise ZskdError(f"{option} is {text!r}: its {min(twice)} is in the name already")
        return target, bound | given

    def _find(self, name: str) -> tuple[E | None, dict[str, int]]:
        """Return the entry of a name without arguments, and the numbers in the name."""
        entry = self._entries.get(name)
        if entry is not None and not isinstance(entry, Family):
            return entry, {}
        for key, family in self._entries.items():
            if isinstance(family, Family) and (numbers := match_pattern(key, name)) is not None:
                return family, numbers
        return None, {}

    def _unknown(self, name: str, option: str) -> ZskdError:
        if isinstance(family := self._entries.get(name), Family):
            return ZskdError(f"{option} is {name!r}, which stands for many names, such as {family.example}")
        names = [
            fill_pattern(key, name) or one.example if isinstance(one, Family) else key
            for key, one in self._entries.items()
        ]
        near = suggestion(name, names)
        hint = near if "?" in near else suggestion(name, self._entries)
        code = ", or name your own as file.py:Name" if self.takes_code and "?" not in hint else ""
        return ZskdError(f"{option} is {name!r}, which is no {self.kind}{hint}{code}")
