"""The table of docs/pictures.md, from results/pictures.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from records import RESULTS


def pictures_balance() -> str:
    """Entropy and confidence of the classes that a teacher predicts, by start image and candidates."""
    record: dict[str, Any] = json.loads((RESULTS / "pictures.json").read_text(encoding="utf-8"))
    lines = [
        "| start image | candidates | entropy | rarest class, % | mean confidence |",
        "|---|---|---|---|---|",
    ]
    for one in record["lines"]:
        rarest = 100 * min(one["predicted"]) / record["images"]
        lines.append(
            f"| `{one['start']}` | {one['candidates']} | {one['entropy']:.3f} | {rarest:.1f} | "
            f"{one['confidence']:.2f} |"
        )
    return "\n".join(lines)


PICTURES_TABLES: dict[str, Callable[[], str]] = {"pictures-balance": pictures_balance}
