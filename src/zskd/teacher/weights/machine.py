"""The machine that reads pickles, without the parts that import or run anything.

A pickle is a small program. The standard machine imports what the program names and calls it; this one does
not: a name becomes a `Stub`, and a call of it, or a change to it, is written down in the stub. Only names in
a table of ours, which stand for plain data, mean something. The standard library splits the bytes into
instructions (`pickletools.genops`); the format is that of its module `pickle`, protocols 0 to 5.
"""

from __future__ import annotations

import pickletools
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from io import BytesIO
from mmap import mmap
from typing import Any

_MOST_STEPS = 10_000_000
"""Instructions of a pickle. A network of 100,000 tensors needs 3 million; each makes some 60 bytes."""
_MOST_STUBS = 2_000_000
"""Stubs of a pickle; a tensor needs up to five, and each takes some 300 bytes."""


Stream = BytesIO | mmap
"""Bytes with a position; reading never allocates more than there is."""


class Built(ABC):
    """An object that a pickle changes after making it."""

    @abstractmethod
    def build(self, state: Any) -> None:
        """Take the state that the pickle gives."""


class Stub(Built):
    """A class, a function or an object of a program: its name, and what the pickle does with it. Inert."""

    __slots__ = ("arguments", "entries", "items", "name", "states")

    def __init__(self, name: str, arguments: tuple[Any, ...] | None = None) -> None:
        self.name = name
        """Module and qualified name."""
        self.arguments = arguments
        """What it was called with; None: it was not called."""
        self.states: list[Any] = []
        """States for `__setstate__`."""
        self.items: list[Any] = []
        """What was appended to it."""
        self.entries: dict[str, Any] = {}
        """What was assigned to its keys."""

    def build(self, state: Any) -> None:
        """Note the state."""
        self.states.append(state)


Meaning = Callable[["Machine", tuple[Any, ...]], Any]
"""Returns the data for a call with these arguments."""


class Machine:
    """Runs one pickle. Its values are None, numbers, text, bytes, lists, tuples, dicts with text as keys,
    stubs, and whatever the meanings return.
    """

    def __init__(
        self, meanings: Mapping[str, Meaning], persistent: Callable[[Any], Any], *, most_bytes: int
    ) -> None:
        """Prepare a machine.

        Args:
            meanings: module and name -> the data of a call; all other names stay stubs.
            persistent: returns the object of a persistent id.
            most_bytes: bytes or items that meanings may copy in all.
        """
        self.meanings = meanings
        self.persistent = persistent
        self.names: dict[str, None] = {}
        """Names without a meaning that were called or built, in their order."""
        self._left = most_bytes
        self._stubs = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def spend(self, count: int) -> None:
        """Count bytes or items that a meaning copies: a pickle can ask for one copy a million times.

        Raises:
            ValueError: it is more than a pickle of this size needs.
        """
        self._left -= count
        if self._left < 0:
            raise ValueError("its pickle unfolds into more than the file holds")

    def run(self, stream: Stream) -> Any:
        """Return the value of the pickle that begins here; the stream then stands behind it.

        Raises:
            ValueError: it is no complete pickle, or larger than any network's.
        """
        try:
            for number, (step, argument, _) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]
                if step.name == "STOP":
                    return self._stack.pop()
                if number > _MOST_STEPS:
                    raise ValueError(f"its pickle has more than {_MOST_STEPS:,} instructions")
                self._do(step.name, argument)
        except ValueError:
            raise
        except (LookupError, TypeError, AttributeError, AssertionError, OverflowError, struct.error) as error:
            raise ValueError("its pickle is damaged") from error
        raise ValueError("its pickle is cut off")

    def call(self, function: Any, arguments: Any) -> Any:
        """Return what stands for a call."""
        given = arguments if isinstance(arguments, tuple) else (arguments,)
        if not isinstance(function, Stub):
            return self._stub("an object", (function, *given))
        meaning = self.meanings.get(function.name) if function.arguments is None else None
        if meaning is not None:
            return meaning(self, given)
        self.names[function.name] = None
        return self._stub(function.name, given)

    def _stub(self, name: str, arguments: tuple[Any, ...] | None = None) -> Stub:
        self._stubs += 1
        if self._stubs > _MOST_STUBS:
            raise ValueError(f"its pickle has more than {_MOST_STUBS:,} objects of a program")
        return Stub(name, arguments)

    def _do(self, step: str, argument: Any) -> None:
        stack = self._stack
        if step in _PUSHED:
            stack.append(argument)
        elif step in _FIXED:
            stack.append(_FIXED[step])
        elif step in _NEW:
            stack.append(_NEW[step]())
        elif step in _ACTIONS:
            _ACTIONS[step](self, argument)
        elif step not in _IGNORED:
            raise ValueError(f"its pickle needs the instruction {step}, which is not for files")

    def _behind_mark(self) -> list[Any]:
        first = self._marks.pop()
        items = self._stack[first:]
        del self._stack[first:]
        return items

    def _last(self, count: int) -> list[Any]:
        if count > len(self._stack) - (self._marks[-1] if self._marks else 0):
            raise IndexError
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _pop(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._behind_mark()

    def _dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, place: int | None) -> None:
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def _get(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._behind_mark()))

    def _list(self, _: Any) -> None:
        self._stack.append(self._behind_mark())

    def _dict(self, _: Any) -> None:
        items = self._behind_mark()
        made: dict[str, Any] = {}
        self._stack.append(made)
        _assign(made, items)

    def _append(self, _: Any) -> None:
        _extend(self._stack[-2], self._last(1))

    def _appends(self, _: Any) -> None:
        items = self._behind_mark()
        _extend(self._stack[-1], items)

    def _set_item(self, _: Any) -> None:
        items = self._last(2)
        _assign(self._stack[-1], items)

    def _set_items(self, _: Any) -> None:
        items = self._behind_mark()
        _assign(self._stack[-1], items)

    def _global(self, names: str) -> None:
        self._stack.append(self._stub(names.replace(" ", ".")))

    def _stack_global(self, _: Any) -> None:
        module, name = self._last(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        self._stack.append(self._stub(f"{module}.{name}"))

    def _extension(self, code: int) -> None:
        self._stack.append(self._stub(f"copyreg extension {code}"))

    def _instance(self, names: str) -> None:
        arguments = tuple(self._behind_mark())
        self._stack.append(self.call(self._stub(names.replace(" ", ".")), arguments))

    def _object(self, _: Any) -> None:
        kind, *arguments = self._behind_mark()
        self._stack.append(self.call(kind, tuple(arguments)))

    def _reduce(self, _: Any) -> None:
        self._stack.append(self.call(*self._last(2)))

    def _new_with_keywords(self, _: Any) -> None:
        kind, arguments, keywords = self._last(3)
        self._stack.append(self.call(kind, (arguments, keywords)))

    def _build(self, _: Any) -> None:
        (state,) = self._last(1)
        if isinstance(self._stack[-1], Built):
            self._stack[-1].build(state)

    def _persistent_text(self, name: str) -> None:
        self._stack.append(self.persistent(name))

    def _persistent(self, _: Any) -> None:
        (name,) = self._last(1)
        self._stack.append(self.persistent(name))


def _extend(target: Any, items: list[Any]) -> None:
    (target.items if isinstance(target, Stub) else _only(list, target)).extend(items)


def _assign(target: Any, items: list[Any]) -> None:
    entries = target.entries if isinstance(target, Stub) else _only(dict, target)
    if len(items) % 2:
        raise IndexError
    for i in range(0, len(items), 2):
        entries[_key(items[i], len(entries))] = items[i + 1]


def _only(kind: type, target: Any) -> Any:
    if type(target) is not kind:
        raise TypeError
    return target


def _key(key: Any, place: int) -> str:
    """Return a key as text. Text alone has hashes that nobody can make collide, and no depth."""
    if isinstance(key, str):
        return key
    if isinstance(key, bytes):
        return key.decode("latin-1")
    return str(key) if isinstance(key, int | float) else f"key {place}"


_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_FIXED: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NEW: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}
_IGNORED = {"PROTO", "FRAME"}
_ACTIONS: dict[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine._mark,
    "POP": Machine._pop,
    "POP_MARK": Machine._pop_mark,
    "DUP": Machine._dup,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Machine._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Machine._get),
    "TUPLE": Machine._tuple,
    "TUPLE1": lambda machine, _: machine._stack.append(tuple(machine._last(1))),
    "TUPLE2": lambda machine, _: machine._stack.append(tuple(machine._last(2))),
    "TUPLE3": lambda machine, _: machine._stack.append(tuple(machine._last(3))),
    "LIST": Machine._list,
    "FROZENSET": Machine._list,
    "DICT": Machine._dict,
    "APPEND": Machine._append,
    **dict.fromkeys(("APPENDS", "ADDITEMS"), Machine._appends),
    "SETITEM": Machine._set_item,
    "SETITEMS": Machine._set_items,
    "GLOBAL": Machine._global,
    "STACK_GLOBAL": Machine._stack_global,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), Machine._extension),
    "INST": Machine._instance,
    "OBJ": Machine._object,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), Machine._reduce),
    "NEWOBJ_EX": Machine._new_with_keywords,
    "BUILD": Machine._build,
    "PERSID": Machine._persistent_text,
    "BINPERSID": Machine._persistent,
}
