"""The way in for bytes that somebody else wrote: how files are opened, how large they may be, how they fail.

Every file from outside passes `opened`, `read_bytes` or `read_json`, and what reads its bytes runs inside
`one_line_errors`.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from zskd.core.errors import ZskdError, has_hidden, one_line, readable_errors

LARGEST_TEXT = 1 << 26
"""Bytes of a file of settings, facts or results; those of the largest experiment are a hundredth of it."""
_LONGEST_REASON = 300
"""Characters of the words of a reader, whose author did not write them for one line."""
_DEEPEST = 100
"""Levels of lists and objects in a JSON file."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading. A pipe or a device, which may never end, is refused.

    Raises:
        ZskdError: there is no such file, it may not be read, or reading it fails.
    """
    with readable_errors(path, "read"):
        try:
            # without O_NONBLOCK, opening a pipe waits for its writer
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            stream = os.fdopen(os.open(path, flags), "rb", closefd=True)
        except IsADirectoryError:
            raise ZskdError(f"{path} is a folder: give a file") from None
        except (FileNotFoundError, ValueError) as error:  # ValueError: a zero byte in the name
            raise ZskdError(f"there is no file {path}") from error
        with stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ZskdError(f"{path} is a pipe or a device: give a file")
            yield stream


def read_bytes(path: Path, what: str, most: int = LARGEST_TEXT) -> bytes:
    """Return the bytes of a file.

    Args:
        path: the file.
        what: the file's role, for the message: "a recipe".
        most: bytes that it may hold.

    Raises:
        ZskdError: as `opened` does, or the file is larger.
    """
    with opened(path) as stream:
        found = stream.read(most + 1)
    if len(found) > most:
        raise ZskdError(f"{path} is larger than {what} can be ({most:,} bytes): give another file")
    return found


@contextmanager
def one_line_errors(
    wrong: str, advice: str = "copy or make it again", *, also_told: bool = False
) -> Iterator[None]:
    """Turn every failure of a reader into one line.

    Readers of other packages fail in more ways than they tell: with errors of their parts, of the memory, of
    a depth.

    Args:
        wrong: what the failure means: "a.npz is no readable archive of arrays".
        advice: what to do.
        also_told: whether to put these words around a `ZskdError`, too; else it passes unchanged.

    Raises:
        ZskdError: for any exception.
    """
    try:
        yield
    except ZskdError as error:
        if not also_told:
            raise
        raise ZskdError(f"{wrong} ({error}): {advice}") from error
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a reader in Rust is no `Exception`
        why = one_line(error)
        why = why if len(why) <= _LONGEST_REASON else f"{why[:_LONGEST_REASON]} …"
        raise ZskdError(f"{wrong} ({why}): {advice}") from error


def read_json(path: Path, what: str, advice: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        what: the file's role, for the message ("the manifest of the transfer set").
        advice: what to do when it is damaged.

    Raises:
        ZskdError: the file is missing, unreadable or incomplete, or not a JSON object; it has a key twice, or
            a text with control characters.
    """
    if not path.is_file():
        raise ZskdError(f"{path} is missing: it should be {what}")
    data = read_bytes(path, what)
    with one_line_errors(f"{path}, {what}, is damaged", advice):
        value = parse_json(data)
    if not isinstance(value, dict):
        raise ZskdError(f"{path}, {what}, does not hold a JSON object: {advice}")
    return value


def parse_json(data: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is none, a key stands twice in an object, a text holds control characters (other than
            tab and new line) or half a character, or it is nested too deeply.
        RecursionError: it is nested much too deeply.
    """
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    value = json.loads(text, object_pairs_hook=_once)
    _check(value, _DEEPEST)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key[:80]!r} stands twice")
        found[key] = value
    return found


def _check(value: Any, levels: int) -> None:
    if isinstance(value, str):
        if has_hidden(value, but="\n\t"):
            raise ValueError(f"the text {value[:80]!r} holds control characters")
    elif isinstance(value, dict | list):
        if not levels:
            raise ValueError("it is nested too deeply")
        for one in [*value.keys(), *value.values()] if isinstance(value, dict) else value:
            _check(one, levels - 1)
