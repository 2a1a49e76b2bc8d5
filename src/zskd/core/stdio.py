"""Standard output and standard error for long commands: a command continues when their reader exits."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast


class Lasting:
    """A text stream whose `write` and `flush` do not fail when the text cannot be written.

    After the first failure (a closed pipe, a full disk), all later text is dropped. This also holds for all
    others that write to the same file descriptor: worker processes, and the interpreter at its exit.
    Characters that the stream's encoding lacks are written as escape codes, as Python does on standard error.

    Args:
        stream: the stream to write to; None, Python's value for a closed stream: all text is dropped.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: SIM115, PTH123
        self.lost: OSError | None = None
        """The first error of writing, unless the reader closed the pipe."""

    def write(self, text: str) -> int:
        """Write a text, or drop it; return its length."""
        try:
            self._write(text)
        except (OSError, ValueError) as error:
            self._silence(error)
        return len(text)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:  # a letter, or half of one in a file's name
            encoding = getattr(self._stream, "encoding", None) or "ascii"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def flush(self) -> None:
        """Write the buffered text, or drop it."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._silence(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _silence(self, error: OSError | ValueError) -> None:
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            self.lost = self.lost or error
        # the stream still buffers the text: if flushing fails at exit, Python exits with code 120
        with suppress(OSError, ValueError):
            descriptor = self._stream.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)


@contextmanager
def lasting_streams() -> Iterator[Lasting]:
    """Replace standard output and standard error by `Lasting` streams inside the block; yield the output."""
    output = Lasting(sys.stdout)
    with redirect_stdout(cast(TextIO, output)), redirect_stderr(cast(TextIO, Lasting(sys.stderr))):
        try:
            yield output
        finally:
            output.flush()


def keep_lasting_streams() -> None:
    """Replace the standard streams of this worker process by `Lasting` streams."""
    sys.stdout, sys.stderr = cast(TextIO, Lasting(sys.stdout)), cast(TextIO, Lasting(sys.stderr))


def open_closed_streams() -> None:
    """Open the null device for each closed standard stream.

    Otherwise the next opened file gets the file descriptor of the closed stream, and output for standard
    error is written to that file.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
