"""Standard output and standard error that a command outlives: its readers may go away, the work goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast


class Lasting:
    """A text stream whose `write` and `flush` do not fail when the text has nowhere to go.

    After the first failure (a closed pipe, a full disk) what is written is dropped, here and by everything
    else that writes to the same file descriptor: worker processes, and the interpreter at its exit.

    Args:
        stream: where text goes to; None, as Python has it for a stream that was closed: nowhere.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: SIM115, PTH123
        self.lost: OSError | None = None
        """Why text was lost, unless its reader went away."""

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        try:
            self._stream.write(text)
        except UnicodeError:  # a ValueError, and the stream can still be written
            raise
        except (OSError, ValueError) as error:
            self._silence(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what is kept back, or drop it."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._silence(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _silence(self, error: OSError | ValueError) -> None:
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            self.lost = self.lost or error
        # the stream still holds the text: at exit it must go somewhere, or Python ends with code 120
        with suppress(OSError, ValueError):
            descriptor = self._stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


@contextmanager
def lasting_streams() -> Iterator[Lasting]:
    """Let standard output, which is given, and standard error outlive their readers in this block."""
    output = Lasting(sys.stdout)
    with redirect_stdout(cast(TextIO, output)), redirect_stderr(cast(TextIO, Lasting(sys.stderr))):
        try:
            yield output
        finally:
            output.flush()


def keep_lasting_streams() -> None:
    """Let the standard streams of this process, a worker, outlive their readers for good."""
    sys.stdout, sys.stderr = cast(TextIO, Lasting(sys.stdout)), cast(TextIO, Lasting(sys.stderr))


def open_closed_streams() -> None:
    """Open the null device in place of standard streams that were closed.

    Otherwise the next file that is opened gets their number, and what a library or another process writes
    to standard error ends in that file.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
