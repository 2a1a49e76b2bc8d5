"""What a registry is made of: entries, families of names, and the look-up of a name with arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from zskd.config.checks import suggestion
from zskd.config.patterns import fill_pattern, match_pattern
from zskd.config.sizes import near_size, read_size
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
class Prefix(Entry):
    """An entry for all names that begin with the same word and a colon. Its key is `timm:{name}`.

    What follows the colon becomes the argument of this word: `timm="resnet18"`.
    """

    example: str
    """One of the names."""


@dataclass(frozen=True)
class Sized(Prefix):
    """A student by its size, `narrow:0.5` (see `config.sizes`); its argument is the whole name."""


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
    and the number becomes an argument. An entry with exactly that name comes before a family. The words
    before a colon that are keys here are never the user's own code.
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
        return tuple(
            one.example if isinstance(one, Family | Prefix) else key for key, one in self._entries.items()
        )

    def knows(self, name: str) -> bool:
        """Return whether a name without arguments is an entry, or one of a family."""
        return self._find(name)[0] is not None

    def is_code(self, name: str) -> bool:
        """Return whether a name, with or without arguments, refers to the user's own code."""
        return self.takes_code and is_code(name) and not self.knows(parse_call(name)[0])

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
            if (near := self._mistyped(name)) is not None:
                raise ZskdError(f"{option} is {name!r}, which is no {self.kind}: did you mean {near}?")
            return name, given
        if isinstance(entry, Sized):
            if given:
                raise ZskdError(f"{option} is {text!r}, but {name} takes no arguments")
            read_size(name, option)
        target, bound = parse_call(entry.target) if isinstance(entry, Entry) else ("", {})
        bound |= numbers
        if twice := bound.keys() & given.keys():
            raise ZskdError(f"{option} is {text!r}: its {min(twice)} is in the name already")
        return target, bound | given

    def _find(self, name: str) -> tuple[E | None, dict[str, Any]]:
        """Return the entry of a name without arguments, and the arguments in the name: of a family, its
        numbers; of a prefix, what follows the colon; of a size, the name."""
        word, colon, rest = name.partition(":")
        for key, entry in self._entries.items():
            if isinstance(entry, Family):
                if (numbers := match_pattern(key, name)) is not None and name not in self._entries:
                    return entry, numbers
            elif isinstance(entry, Prefix) and ":" in key:
                if colon and word == key.partition(":")[0]:
                    return entry, {"name": name} if isinstance(entry, Sized) else {word: rest}
            elif key == name:
                return entry, {"name": name} if isinstance(entry, Sized) else {}
        return None, {}

    def _mistyped(self, name: str) -> str | None:
        """Return a name near one that looks like code and cannot be: `narrow:0.5` for `narow:0.5`."""
        sized = any(isinstance(one, Sized) for one in self._entries.values())
        return near_size(name) if sized and not name.rpartition(":")[2].isidentifier() else None

    def _unknown(self, name: str, option: str) -> ZskdError:
        if isinstance(family := self._entries.get(name), Family):
            return ZskdError(f"{option} is {name!r}, which stands for many names, such as {family.example}")
        names = [
            fill_pattern(key, name) or one.example
            if isinstance(one, Family)
            else one.example
            if isinstance(one, Prefix)
            else key
            for key, one in self._entries.items()
        ]
        near = suggestion(name, names)
        hint = near if "?" in near else suggestion(name, self._entries)
        code = ", or name your own as file.py:Name" if self.takes_code and "?" not in hint else ""
        return ZskdError(f"{option} is {name!r}, which is no {self.kind}{hint}{code}")
