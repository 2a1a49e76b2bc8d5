"""The command `zskd`: set the environment, then run the command line."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from types import FrameType

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def main() -> None:
    """Run the command line and exit with its code."""
    handled = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, _end)  # during the imports that follow; the command has its own handler
    # OpenMP reads this once, when torch is imported. Threads that wait actively make a step up to twenty
    # times slower on a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from zskd.core.stdio import open_closed_streams

    open_closed_streams()  # before anything else opens a file
    try:
        from zskd.cli.main import main as run
    except (ImportError, MemoryError, OSError) as error:
        print(f"zskd: error: {error}: give zskd more memory and files, or install it again", file=sys.stderr)
        sys.exit(2)
    code = run(sys.argv[1:])
    for number in handled:
        signal.signal(number, signal.SIG_DFL)  # all is done: a signal while Python ends needs no words
    sys.exit(code)


def _end(number: int, frame: FrameType | None) -> None:
    """End before anything was begun. An exception would be lost in some imports, and break others."""
    line = f"stopped. Finished parts are kept; to resume: zskd {shlex.join(sys.argv[1:])}\n"
    try:
        os.write(2, line.encode(errors="backslashreplace"))
    finally:
        os._exit(128 + number)


if __name__ == "__main__":
    main()
