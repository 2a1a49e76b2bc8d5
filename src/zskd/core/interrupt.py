"""Handling of Ctrl-C so that no interruption is lost.

Python raises `KeyboardInterrupt` at any point of the main thread. Inside a finaliser or a callback of a weak
reference (every import has one), Python prints or ignores the exception and the program continues. So the
interruption is stored and raised again at the next step that is reported to a `Progress`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_interrupted = False


@contextmanager
def remembered() -> Iterator[None]:
    """Store interruptions inside the block; no effect outside the main thread."""
    global _interrupted
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        _interrupted = False
        signal.signal(signal.SIGINT, before)


def raise_lost() -> None:
    """Raise a stored interruption; no effect outside the main thread.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if _interrupted and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def _note(number: int, frame: FrameType | None) -> None:
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt
