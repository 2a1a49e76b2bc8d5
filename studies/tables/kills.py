"""The table of kills in docs/reproducibility.md, from results/kills.json."""

from __future__ import annotations

import json
from typing import Any

from records import RESULTS
from zskd.core.tables import markdown_table


def kills() -> str:
    """How often each command was killed in each way, and how many bytes differed then."""
    record: dict[str, Any] = json.loads((RESULTS / "kills.json").read_text(encoding="utf-8"))
    counts = record["counts"]
    targets = record["targets"]
    rows = []
    for name in dict.fromkeys(one["command"] for one in counts):
        of_command = [one for one in counts if one["command"] == name]
        by_target = {one["target"]: str(one["kills"]) for one in of_command}
        compared, different = (sum(one[key] for one in of_command) for key in ("files", "different_bytes"))
        rows.append((name, *(by_target.get(one, "–") for one in targets), str(compared), str(different)))
    head = ("command", *targets, "files compared", "bytes different")
    machine, versions = record["processor"], record["versions"]
    words = (
        f"{record['kills']} kills, {sum(one['different_bytes'] for one in counts)} bytes different. "
        f"`{record['command']}` on {record['date']}, commit {str(record['commit'])[:8]}, torch "
        f"{versions['torch']}, {machine['name']} with {machine['cores']} cores."
    )
    return f"{markdown_table(head, rows)}\n\n{words}"


KILLS_TABLES = {"kills": kills}
