"""A file of settings may name code of somebody's own, and must not decide that it runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from zskd.config.entries import Registry
from zskd.config.registry import REGISTRIES
from zskd.core.code import code_sha256, parse_call
from zskd.core.errors import ZskdError
from zskd.core.trust import is_trusted

_PLAIN = re.compile(r"(?:.+?\.py|[^:(@]+):[^(@]*", re.DOTALL)
"""`file.py:Name` or `package.module:Name`, without arguments and weights behind it."""
_MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\(.*|@.*)?", re.DOTALL)
"""What looks like a name in a module, where it is not known what a setting is for."""
_LIBRARIES = {"path": ("hf", "onnx", "timm", "torchvision"), "model": ("timm", "torchvision")}
"""Key of a setting -> the words before a colon that name a library's network there."""


def _registries() -> dict[str, list[Registry[Any]]]:
    """Return the registries whose names a setting may have, by the last part of its key."""
    found: dict[str, list[Registry[Any]]] = {"path": []}
    for option, registry in REGISTRIES.items():
        if registry.takes_code:
            found.setdefault(option.removeprefix("--").rpartition(".")[2], []).append(registry)
    return found | {"students": found["student"]}


_OF_KEY = _registries()


def check_trust(values: Any, source: str, *, given: Any = None, trust: Collection[str] = ()) -> None:
    """Check that the user has named all code that a file of settings names.

    Args:
        values: nested plain values of the file.
        source: the file, for the message.
        given: nested plain values of the command line.
        trust: names that were given for this purpose.

    Raises:
        ZskdError: code is named in the file alone, and was not trusted before or was changed since.
    """
    if (plain := not_trusted(values, (*trust, *code_in(given)))) is not None:
        raise ZskdError(
            f"{source} names the code {plain}, which would run: if you trust it, add --trust "
            f"{shlex.quote(plain)}"
        )


def not_trusted(values: Any, named: Iterable[str]) -> str | None:
    """Return the first code in nested values that must not run, without arguments; None where all may.

    Args:
        values: plain values of a file.
        named: code that the user has named. What was trusted before and is unchanged may run, too.
    """
    known = {plain_code(name) for name in named}
    for name in code_in(values):
        if (plain := plain_code(name)) not in known and not is_trusted(name.partition("@")[0]):
            return plain
    return None


def code_in(value: Any, key: str = "", *, guess: bool = True) -> Iterator[str]:
    """Yield the names of code in nested values.

    Args:
        value: nested.
        key: last part of the name of the setting.
        guess: whether what looks like a name in a module counts where the setting is not known.
    """
    if isinstance(value, str) and _is_code(value, key, guess):
        yield value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from code_in(one, str(name).rpartition(".")[2], guess=guess)
    elif isinstance(value, list | tuple):
        yield from (found for one in value for found in code_in(one, key, guess=guess))


def code_hashes(values: Any, key: str = "") -> dict[str, str | None]:
    """Return the hash of the file of all code in nested settings, by its name without arguments.

    The code is imported. Code that differs in its hash makes another result.

    Args:
        values: nested plain values, or one.
        key: as for `code_in`, where there is one value.

    Raises:
        ZskdError: as `code_sha256` does.
    """
    names = {plain_code(one) for one in code_in(values, key, guess=False)}
    return {name: code_sha256(name) for name in sorted(names)}


def _is_code(text: str, key: str, guess: bool) -> bool:
    """Return whether a text of a setting may be imported: anything that its registry does not know."""
    if ":" not in text or ".py:" in text:
        return ".py:" in text
    if text.partition(":")[0] in _LIBRARIES.get(key, ()):
        return False
    registries = _OF_KEY.get(key)
    if registries is None and not guess:
        return False
    if not registries:  # no registry, or it is not known what the setting is for
        libraries = _LIBRARIES["path"] if registries is None else ()
        known = registries is None and any(one.knows(_without_call(text)) for one in REGISTRIES.values())
        return _MODULE.fullmatch(text) is not None and not known and text.partition(":")[0] not in libraries
    return not any(one.knows(_without_call(text)) for one in registries)


def _without_call(text: str) -> str:
    try:
        return parse_call(text)[0]
    except ZskdError:
        return text


def plain_code(name: str) -> str:
    """Return a name of code without arguments, and without weights behind it."""
    found = _PLAIN.match(name)
    return found[0] if found else name
