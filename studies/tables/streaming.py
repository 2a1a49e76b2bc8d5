"""The table of docs/large-sets.md, from results/streaming.json."""

from __future__ import annotations

import json

from records import RESULTS
from zskd.core.tables import markdown_table


def streaming() -> str:
    """Peak of the memory in a pass over a set, by how it is stored and read."""
    record = json.loads((RESULTS / "streaming.json").read_text(encoding="utf-8"))
    head = ("storage", "the set", "`distill.images`", "`distill.order`", "peak of the memory", "a pass")
    rows = [
        (
            one["storage"],
            f"{one['set_mb']:,} MB",
            one["images"],
            one["order"],
            f"{one['peak_mb']:,} MB",
            f"{one['pass_seconds']:.0f} s",
        )
        for one in record["rows"]
    ]
    first, machine = record["rows"][0], record["processor"]
    shape = "×".join(map(str, record["shape"]))
    words = (
        f"{record['count']:,} images of {shape}, a student of one layer, windows of {record['window_mb']} "
        "MB. The peak counts mapped pages of files, and "
        f"{first['import_mb']} MB that the process takes before it opens the set. Other programs kept the "
        "cores busy, so that times show no more than an order of magnitude. "
        f"`{record['command']}` on {record['date']}, commit {str(record['commit'])[:8]}, torch "
        f"{record['versions']['torch']}, {machine['name']} with {machine['cores']} cores."
    )
    return f"{markdown_table(head, rows)}\n\n{words}"


STREAMING_TABLES = {"streaming": streaming}
