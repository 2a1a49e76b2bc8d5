"""The tables of docs/engines.md, from results/engines.json and results/cluster.json."""

from __future__ import annotations

import json
from typing import Any

from records import RESULTS
from zskd.core.tables import markdown_table


def _record(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return record


def _origin(record: dict[str, Any]) -> str:
    machine, made_by = record["processor"], record["versions"]
    return (
        f"`{record['command']}` on {record['date']}, commit {str(record['commit'])[:8]}, Ray "
        f"{made_by['ray']}, torch {made_by['torch']}, {machine['name']} with {machine['cores']} cores."
    )


def engine_costs() -> str:
    """Seconds of a shard and of an empty task, with both engines."""
    record = _record("engines")
    rows = []
    for name, one in record["engines"].items():
        times = sorted(one["seconds"])
        rows.append(
            (
                name,
                f"{1000 * one['seconds_per_shard']:.0f} ms",
                f"{times[0]:.1f} to {times[-1]:.1f} s",
                f"{1000 * one['seconds_per_empty_task']:.2f} ms",
                f"{record['first_start_seconds'][name]:.1f} s",
            )
        )
    head = (
        "engine",
        "a shard (median)",
        f"{record['shards']} shards, {record['rounds']} times",
        "an empty task",
        "first start",
    )
    words = f"{record['different_shards']} of {record['shards']} shards differ. {_origin(record)}"
    return f"{markdown_table(head, rows)}\n\n{words}"


def cluster_counts() -> str:
    """What was compared on a cluster of three nodes, and how much differed."""
    record = _record("cluster")
    rows = []
    for one in record["counts"]:
        before = one.get("shards_before")
        note = "" if before is None else f"{before} shards were there when it happened"
        rows.append((one["what"], str(one["files"]), str(one["different"]), note))
    return f"{markdown_table(('work', 'compared', 'different', ''), rows)}\n\n{_origin(record)}"


ENGINES_TABLES = {"engine-costs": engine_costs, "cluster-counts": cluster_counts}
