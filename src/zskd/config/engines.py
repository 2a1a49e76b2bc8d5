"""The engine of a name."""

from __future__ import annotations

from zskd.config.registry import ENGINES
from zskd.core.engines.base import Engine


def open_engine(name: str) -> Engine:
    """Return where tasks run; it is reached when it is first used.

    Args:
        name: local, ray or ray:HOST:PORT.

    Raises:
        ZskdError: there is no such engine.
    """
    ENGINES.check(name, "--engine")
    engine: Engine = ENGINES.load(name)()
    return engine
