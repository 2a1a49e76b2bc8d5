"""What every record of a benchmark says of its making."""

from __future__ import annotations

import shlex
import sys
from datetime import date
from importlib.metadata import version
from typing import Any

from zskd.core.device import processor
from zskd.core.versions import source_commit, versions


def made_with(*packages: str) -> dict[str, Any]:
    """Return date, command, commit, versions (of other packages, too) and processor."""
    return {
        "date": date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        "commit": source_commit(),
        "versions": versions() | {name: version(name) for name in packages},
        "processor": processor(),
    }
