"""Paths of the committed records, and how lists of lines are read and written."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zskd.core.device import processor
from zskd.core.files import write_text
from zskd.core.versions import source_commit, versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"

Line = dict[str, Any]


def read_lines(path: Path) -> list[Line]:
    """Return the entries of a JSON list; none without a file."""
    lines: list[Line] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return lines


def write_lines(path: Path, lines: Sequence[Line]) -> None:
    """Write a JSON list, one line for each entry."""
    write_text(path, "[\n" + ",\n".join(json.dumps(line) for line in lines) + "\n]\n")


def read_appended(path: Path) -> list[Line]:
    """Return the entries of a file with one JSON object per line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def made_with() -> Line:
    """Return what every line of a study says of its making: versions, processor, commit and command."""
    return {
        "versions": versions(),
        "processor": processor(),
        "commit": source_commit(),
        "command": shlex.join(["python", *sys.argv]),
    }
