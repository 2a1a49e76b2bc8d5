"""The exception for the user."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters (a terminal obeys them), characters that reverse the text behind them, line separators,
and halves of characters, which no file and no terminal takes."""
_LONGEST, _KEPT = 2000, 900
"""Characters of a message, and of each end of one that is longer."""


class ZskdError(Exception):
    """A wrong input or an unusable environment. The message is one line and says what to do.

    The command line prints the message without a traceback and exits with code 2. A message may quote a file,
    so what a terminal would obey is written as an escape code, and the middle of a long text is left out.
    """

    def __init__(self, message: str) -> None:
        text = escaped(message)
        super().__init__(text if len(text) <= _LONGEST else f"{text[:_KEPT]} … {text[-_KEPT:]}")


def escaped(text: str) -> str:
    r"""Return a text in which control characters and halves of characters are escape codes: `\x1b`."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def has_hidden(text: str, *, but: str = "") -> bool:
    """Return whether a text holds control characters or halves of characters, other than those of `but`."""
    return any(found[0] not in but for found in _HIDDEN.finditer(text))


def one_line(error: BaseException) -> str:
    """Return the message of an exception in one line, for use inside another message."""
    return " ".join(str(error).split()) or type(error).__name__


def first_few(names: Sequence[str], most: int) -> str:
    """Return names in one line, `a, b, …`: no more of them than `most`."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


@contextmanager
def readable_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn an `OSError` on `path` (no permission, disk full, not a folder) into a `ZskdError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise ZskdError(f"cannot {doing} {path}: {reason}") from error
