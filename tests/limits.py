"""How long anything may take before it counts as hanging: no test is about time, and machines are busy."""

import os
import time
from collections.abc import Callable

LIMIT = float(os.environ.get("ZSKD_TEST_LIMIT", "1800"))
"""Seconds of a test, of a process that it starts and of a wait; the environment may give another number."""


def wait_until(ready: Callable[[], bool], seconds: float = LIMIT) -> bool:
    """Return whether it came about before the limit."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
