"""The table of docs/your-teacher.md: what twenty networks of three libraries gave."""

from __future__ import annotations

import json
from collections.abc import Callable

from records import RESULTS, read_lines

_ENOUGH = {"zskd": "impressions", "noise": "noise only: no class vectors"}


def teachers() -> str:
    """One row per network of `results/teachers.json`."""
    lines = [
        "| network | library | size | parameters | last linear map | transfer set | student | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in read_lines(RESULTS / "teachers.json"):
        if one["stage"] == "done":
            made, student = _ENOUGH[one["method"]], f"{one['student_parameters']:,} parameters"
        else:
            made, student = f"{one['stage']}: {one.get('why_not', one.get('fault'))}", "–"
        seconds = sum(one["seconds"].get(name, 0) for name in ("open", "inspect", "set", "student"))
        head = f"`{one['head']}`" if one.get("head") else "–"
        network = f"{one['network']} | {one['library']} | {one['size']} | {one['parameters']:,}"
        lines.append(f"| {network} | {head} | {made} | {student} | {seconds:.0f} |")
    return "\n".join(lines)


def sizes() -> str:
    """What was told and what was taken, for each network of `results/sizes.json`."""
    record = json.loads((RESULTS / "sizes.json").read_text(encoding="utf-8"))
    lines = [
        "| network | images at once | seconds told | seconds taken | per image | memory told | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in record["networks"]:
        told, peak = one["bytes_told"] / 1e9, one["peak_bytes"] / 1e9
        made = f"{one['resolved']['batch_size']} | {one['seconds_told']} | {one['seconds']:.0f}"
        each = f"{one['seconds_per_image']:.2f} s"
        lines.append(f"| {one['network']} | {made} | {each} | {told:.1f} GB | {peak:.1f} GB |")
    return "\n".join(lines)


TEACHERS_TABLES: dict[str, Callable[[], str]] = {"teachers": teachers, "sizes": sizes}
