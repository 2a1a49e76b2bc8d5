"""Handling of Ctrl-C, SIGTERM and SIGHUP so that none is lost, and none ends in a traceback.

Python raises `KeyboardInterrupt` at any point of the main thread. Inside a finaliser or a callback of a weak
reference (every import has one), Python prints or ignores the exception and the program continues; and an
import that is interrupted may fail with another exception, or end the process. So a signal during an import
is delivered again behind it, a lost one again, and each is stored and raised at the next step that is
reported to a `Progress`.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""That end a command, as far as the system has them."""
_AGAIN_SECONDS = 0.02
"""Until a signal is delivered again."""
_PATIENCE = 5.0
"""Seconds of an import, perhaps of the user's own code, after which it is interrupted nevertheless."""
_IMPORT = "<frozen importlib._bootstrap>"


class Stopped(KeyboardInterrupt):
    """A signal ended the command.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number


class _Stop:
    """The first signal, and whether it is to be delivered again."""

    number: int | None = None
    since = 0.0
    waiting = False
    postponed = False


@contextmanager
def remembered() -> Iterator[None]:
    """Store interruptions inside the block; no effect outside the main thread.

    A signal that was ignored before, as by nohup, is still ignored.

    Raises:
        Stopped: there was a signal, whatever other exception came of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Stop.number, _Stop.waiting = None, False
    hook = sys.unraisablehook
    before = {one: signal.getsignal(one) for one in SIGNALS}
    handled = {one: old for one, old in before.items() if old not in (signal.SIG_IGN, None)}

    def on_lost(lost: Any) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            _deliver_again(_Stop.number or signal.SIGINT)
        else:
            hook(lost)

    try:
        sys.unraisablehook = on_lost
        for number in handled:
            signal.signal(number, _note)
        yield
    except Exception as error:
        if _Stop.number is not None:  # such as that of a worker that received the signal, too
            raise Stopped(_Stop.number) from error
        raise
    finally:
        _Stop.number = None
        for number, old in handled.items():
            signal.signal(number, old)
        sys.unraisablehook = hook


@contextmanager
def postponed() -> Iterator[None]:
    """Raise an interruption at the end of the block instead of inside it.

    Raises:
        Stopped: there was a signal.
    """
    _Stop.postponed = True
    try:
        yield
    finally:
        _Stop.postponed = False
    raise_lost()


def raise_lost() -> None:
    """Raise a stored interruption; no effect outside the main thread.

    Raises:
        Stopped: Ctrl-C was pressed, or another signal is to end the command.
    """
    if _Stop.number is not None and threading.current_thread() is threading.main_thread():
        raise Stopped(_Stop.number)


def _note(number: int, frame: FrameType | None) -> None:
    if _Stop.number is None:
        _Stop.number, _Stop.since = number, time.monotonic()
    if _Stop.postponed:
        return
    if _imports(frame) and time.monotonic() - _Stop.since < _PATIENCE:
        _deliver_again(number)
    else:
        raise Stopped(number)


def _imports(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != _IMPORT:
        frame = frame.f_back
    return frame is not None


def _deliver_again(number: int) -> None:
    if _Stop.waiting:
        return

    def deliver() -> None:
        _Stop.waiting = False
        if _Stop.number is not None:
            # unlike the function of `_thread` for this, it ends a wait of the main thread
            signal.pthread_kill(threading.main_thread().ident or 0, number)

    _Stop.waiting = True
    later = threading.Timer(_AGAIN_SECONDS, deliver)
    later.daemon = True
    later.start()
