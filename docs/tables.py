"""Write the tables and pictures of README.md and docs/ from committed records: `python docs/tables.py`.

Every block between `<!-- table NAME -->` and `<!-- end -->` is replaced. Nothing in them is typed by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from better_tables import BETTER_TABLES
from estimate_tables import ESTIMATE_TABLES, draw
from results_tables import RESULTS_TABLES, write_pictures
from search_tables import SEARCH_TABLES
from speed_tables import SPEED_TABLES

from zskd.config.identity import to_values
from zskd.config.loading import load_recipe
from zskd.config.presets import preset_names

ROOT = Path(__file__).resolve().parents[1]
PAGES = tuple(
    ROOT / name
    for name in (
        "README.md",
        "docs/results.md",
        "docs/better.md",
        "docs/reproducibility.md",
        "docs/methods/zskd.md",
        "docs/speed.md",
        "docs/estimate.md",
    )
)
_BLOCK = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


_PRESETS = ["paper", "release", "reproduction", "dfad", "zskt", "first", "default"]


def presets() -> str:
    """Every setting of targets, synthesis and distillation in every preset."""
    names = sorted(preset_names(), key=_PRESETS.index)
    columns = [_flat(to_values(load_recipe(None, {"preset": name}))) for name in names]
    lines = [f"| setting | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for key in columns[0]:
        if key.split(".")[0] in ("targets", "synthesis", "distill"):
            lines.append(f"| `{key}` | {' | '.join(_cell(column[key]) for column in columns)} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "presets": presets,
    **RESULTS_TABLES,
    **SPEED_TABLES,
    **BETTER_TABLES,
    **SEARCH_TABLES,
    **ESTIMATE_TABLES,
}
"""By the names of their blocks."""


def rewritten(page: Path) -> str:
    """Return a page with its tables made anew."""
    text = page.read_text(encoding="utf-8")
    return _BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_cell(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def main() -> int:
    """Rewrite the pages; with `--check` only tell whether they are stale."""
    stale = [page for page in PAGES if rewritten(page) != page.read_text(encoding="utf-8")]
    if "--check" in sys.argv:
        for page in stale:
            print(f"{page.relative_to(ROOT)} is stale: run python docs/tables.py")
        return int(bool(stale))
    for page in stale:
        page.write_text(rewritten(page), encoding="utf-8")
    write_pictures(ROOT / "docs" / "images")
    draw(ROOT / "docs" / "images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
