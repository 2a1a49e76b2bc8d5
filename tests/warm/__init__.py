"""Processes of Python in which all that zskd uses is imported already; their first use starts a server."""

import atexit
import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

KILL = signal.SIGUSR1
"""Sent to such a process, kills it as SIGKILL does; its end is waited for as usual."""


@cache
def python() -> list[str]:
    """Return how to start Python with everything imported; `-m MODULE …` or `-c CODE …` must follow.

    Such a process takes Ctrl-C as any other does, and `KILL` as SIGKILL. A test of how a process starts or
    ends, and one that stops it, uses `sys.executable`.
    """
    if not hasattr(os, "pidfd_open"):  # not on Linux
        return [sys.executable]
    here = Path(__file__).parent
    folder = tempfile.TemporaryDirectory(prefix="zskd-warm-")
    atexit.register(folder.cleanup)
    address = str(Path(folder.name) / "server")
    server = subprocess.Popen(
        [sys.executable, str(here / "server.py"), address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    atexit.register(server.wait)
    atexit.register(server.stdin.close)
    os.environ["ZSKD_WARM"] = address
    return [sys.executable, "-I", "-S", str(here / "client.py")]


def zskd() -> list[str]:
    """Return how to start the command `zskd` in such a process; arguments follow."""
    return [*python(), "-m", "zskd"]
