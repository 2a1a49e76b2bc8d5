"""How many bytes of two results differ, beside times, dates and the number of workers."""

from __future__ import annotations

import json
import re
from pathlib import Path

_TIMES = (".lock", "timings.json", "energy.json", "*.seconds.json", "costs.json", "budget.json")
"""Files that hold durations or energy alone, and the locks."""
_FIELDS = {
    "out/metrics.json": {"seconds", "joules", "energy", "gain", "command"},
    "out/results/*/*.json": {"date", "wall_seconds", "set_seconds", "workers", "command"},
}
"""Keys at the top of JSON files that hold durations, energy, the date, or the number of workers."""
_LINES = {
    "out/README.md": re.compile(r" in all: |^\| (teacher|student) \|"),
    "out/recipe.yaml": re.compile(r"^workers: "),
}
"""Lines that do."""
_LEDGER = "ledger.jsonl"
"""Its lines hold the time; where a command was killed behind one, there is a second one."""


def differences(folder: Path, other: Path, parts: tuple[str, ...]) -> tuple[int, dict[str, int]]:
    """Compare all files below some parts of two folders.

    Returns:
        The number of files, and the number of differing bytes of each that differs. A file that one folder
        lacks differs in all bytes, and an empty one then counts as one.
    """
    one, two = _contents(folder, parts), _contents(other, parts)
    found = {name: _differing(one.get(name), two.get(name)) for name in one.keys() | two.keys()}
    return len(found), {name: count for name, count in sorted(found.items()) if count}


def _differing(one: bytes | None, two: bytes | None) -> int:
    if one is None or two is None:
        return max(1, len(one or two or b""))
    return sum(a != b for a, b in zip(one, two, strict=False)) + abs(len(one) - len(two))


def _contents(folder: Path, parts: tuple[str, ...]) -> dict[str, bytes]:
    files = [
        path
        for part in parts
        for path in ([folder / part] if (folder / part).is_file() else (folder / part).rglob("*"))
        if path.is_file() and not any(path.match(times) for times in _TIMES)
    ]
    return {str(path.relative_to(folder)): _lasting(path) for path in files}


def _lasting(path: Path) -> bytes:
    """Return what of a file is the same on every day."""
    content = path.read_bytes()
    if path.name == _LEDGER:
        lines = [json.loads(line) for line in content.splitlines()]
        return b"\n".join(sorted({json.dumps(line | {"time": ""}).encode() for line in lines}))
    for pattern, keys in _FIELDS.items():
        if path.match(pattern):
            return json.dumps(
                {key: one for key, one in json.loads(content).items() if key not in keys}
            ).encode()
    for pattern, line in _LINES.items():
        if path.match(pattern):
            return "\n".join(one for one in content.decode().splitlines() if not line.search(one)).encode()
    return content
