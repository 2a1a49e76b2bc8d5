"""The table of docs/ranks.md, from results/ranks.json."""

from __future__ import annotations

import json
from statistics import median

from records import RESULTS
from zskd.core.tables import markdown_table


def step_of_ranks() -> str:
    """Seconds of a step in one process and in two, of the changes of a batch, and of a message."""
    record = json.loads((RESULTS / "ranks.json").read_text(encoding="utf-8"))
    rows = []
    for world, found in record["ranks"].items():
        clock, work = found["seconds"], found["processor_seconds"]
        rows.append(
            (
                world,
                f"{median(clock):.2f} s ({min(clock):.2f} to {max(clock):.2f})",
                f"{median(work):.2f} s",
                f"{median(found['changes_seconds']):.3f} s",
            )
        )
    head = ("processes", "a step", "of it, processor of the first process", "random changes of the batch")
    (one, two) = (record["ranks"][world] for world in ("1", "2"))
    times, less = (median(one[key]) / median(two[key]) for key in ("seconds", "processor_seconds"))
    messages = " and ".join(
        f"{1000 * median(values):.1f} ms for a {key.removeprefix('message ')}"
        for key, values in two.items()
        if key.startswith("message ")
    )
    machine = record["processor"]
    words = (
        f"With two processes each computes 1/{less:.2f} as long for a step of {record['batch']} images, and "
        f"the clock shows 1/{times:.2f}. The load at the start was {record['load']:g}: where other "
        "programs want the cores, two processes get a larger share than one, and the processor tells more "
        f"than the clock. The sum of gradients takes {messages} at best.\n\n"
        f"`{record['command']}` on {record['date']}, commit {str(record['commit'])[:8]}, torch "
        f"{record['versions']['torch']}, {machine['name']} with {machine['cores']} cores."
    )
    return f"{markdown_table(head, rows)}\n\n{words}"


RANKS_TABLES = {"ranks": step_of_ranks}
