"""Paths of the committed records, and how lists of lines are read and written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zskd.core.files import write_text

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
