"""A file of settings may name code of somebody's own, and must not decide that it runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator
from typing import Any

from zskd.config.registry import REGISTRIES
from zskd.core.errors import ZskdError
from zskd.core.trust import is_trusted

_CODE = re.compile(r"(?P<source>[^\s(@]+):(?P<name>[A-Za-z_]\w*)(?P<rest>\(.*|@.*)?", re.DOTALL)
"""`file.py:Name` or `package.module:Name`, with arguments or weights behind it."""
_MODULE = re.compile(r"[A-Za-z_][\w.]*")


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
    known = {_without_arguments(name) for name in (*trust, *_code_in(given))}
    for name in _code_in(values):
        plain = _without_arguments(name)
        if plain not in known and not is_trusted(name.partition("@")[0]):
            raise ZskdError(
                f"{source} names the code {plain}, which would run: if you trust it, add --trust "
                f"{shlex.quote(plain)}"
            )


def _code_in(value: Any) -> Iterator[str]:
    """Yield the names of code in nested values."""
    if isinstance(value, str) and _is_code(value):
        yield value
    elif isinstance(value, dict):
        yield from (name for one in value.values() for name in _code_in(one))
    elif isinstance(value, list | tuple):
        yield from (name for one in value for name in _code_in(one))


def _is_code(text: str) -> bool:
    found = _CODE.fullmatch(text)
    if found is None or any(registry.knows(text.partition("(")[0]) for registry in REGISTRIES.values()):
        return False
    source = found["source"]
    return source.endswith(".py") or (
        _MODULE.fullmatch(source) is not None and source not in ("hf", "onnx", "timm", "torchvision")
    )


def _without_arguments(name: str) -> str:
    found = _CODE.fullmatch(name)
    return f"{found['source']}:{found['name']}" if found else name
