"""Ctrl-C that is not lost.

Python raises `KeyboardInterrupt` wherever the main thread happens to be. Inside a finaliser or a callback of
a weak reference, of which every import has one, that exception is printed or dropped and the work goes on.
So it is remembered, and raised again at the next step that is told to a `Progress`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked = False


@contextmanager
def remembered() -> Iterator[None]:
    """Remember an interruption from here to the end of the block; only the main thread can."""
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        _asked = False
        signal.signal(signal.SIGINT, before)


def raise_lost() -> None:
    """Raise the interruption that was asked for, if the work is still going on.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if _asked and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def _note(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    raise KeyboardInterrupt
