"""Write the tables and pictures of README.md and docs/ from committed records: `make docs`, which runs

    python studies/make_tables.py
    python studies/make_tables.py --check

It replaces every block between `<!-- table NAME -->` and `<!-- end -->`; do not edit them by hand. With
`--check` it writes nothing, and fails where a page is stale.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from records import ROOT
from tables.api import API_TABLES
from tables.audit import AUDIT_TABLES
from tables.bench import BENCH_TABLES
from tables.better import BETTER_TABLES
from tables.carry import CARRY_TABLES, draw_carry
from tables.choices import CHOICES_TABLES
from tables.colour import COLOUR_TABLES
from tables.engines import ENGINES_TABLES
from tables.estimate import ESTIMATE_TABLES, draw
from tables.exports import EXPORTS_TABLES
from tables.failures import FAILURES_TABLES, draw_failures
from tables.features import FEATURES_TABLES
from tables.front import FRONT_TABLES, draw_front
from tables.kills import KILLS_TABLES
from tables.names import NAMES_TABLES
from tables.narrow import NARROW_TABLES
from tables.pictures import PICTURES_TABLES
from tables.plan import PLAN_TABLES
from tables.presets import PRESETS_TABLES
from tables.ranks import RANKS_TABLES
from tables.results import RESULTS_TABLES, write_pictures
from tables.rule import RULE_TABLES
from tables.search import SEARCH_TABLES
from tables.speed import SPEED_TABLES
from tables.starts import STARTS_TABLES
from tables.streaming import STREAMING_TABLES
from tables.students import STUDENTS_TABLES, draw_students
from tables.teachers import TEACHERS_TABLES

PAGES = tuple(
    ROOT / name
    for name in (
        "README.md",
        "docs/results.md",
        "docs/audit.md",
        "docs/better.md",
        "docs/carry-over.md",
        "docs/bench.md",
        "docs/default.md",
        "docs/student-batches.md",
        "docs/methods/boundary.md",
        "docs/methods/deepinversion.md",
        "docs/methods/zskd_bn.md",
        "docs/colour.md",
        "docs/reproducibility.md",
        "docs/methods/zskd.md",
        "docs/speed.md",
        "docs/estimate.md",
        "docs/engines.md",
        "docs/ranks.md",
        "docs/export.md",
        "docs/api.md",
        "docs/failures.md",
        "docs/extending.md",
        "docs/large-sets.md",
        "docs/pictures.md",
        "docs/plan.md",
        "docs/features.md",
        "docs/narrow.md",
        "docs/students.md",
        "docs/tuning.md",
        "docs/your-teacher.md",
    )
)
_BLOCK = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

TABLES: dict[str, Callable[[], str]] = {
    **PRESETS_TABLES,
    **RESULTS_TABLES,
    **SPEED_TABLES,
    **AUDIT_TABLES,
    **BENCH_TABLES,
    **BETTER_TABLES,
    **CARRY_TABLES,
    **CHOICES_TABLES,
    **RULE_TABLES,
    **COLOUR_TABLES,
    **SEARCH_TABLES,
    **ENGINES_TABLES,
    **ESTIMATE_TABLES,
    **EXPORTS_TABLES,
    **KILLS_TABLES,
    **NAMES_TABLES,
    **NARROW_TABLES,
    **PICTURES_TABLES,
    **PLAN_TABLES,
    **RANKS_TABLES,
    **TEACHERS_TABLES,
    **FEATURES_TABLES,
    **FRONT_TABLES,
    **STARTS_TABLES,
    **STREAMING_TABLES,
    **STUDENTS_TABLES,
    **API_TABLES,
    **FAILURES_TABLES,
}
"""By the names of their blocks."""


def rewritten(page: Path) -> str:
    """Return the text of a page with new tables."""
    text = page.read_text(encoding="utf-8")
    return _BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def main() -> int:
    """Rewrite the pages; with `--check` only report which are stale. Return the exit status."""
    stale = [page for page in PAGES if rewritten(page) != page.read_text(encoding="utf-8")]
    if "--check" in sys.argv:
        for page in stale:
            print(f"{page.relative_to(ROOT)} is stale: run python studies/make_tables.py")
        return int(bool(stale))
    for page in stale:
        page.write_text(rewritten(page), encoding="utf-8")
    write_pictures(ROOT / "docs" / "images")
    draw(ROOT / "docs" / "images")
    draw_students(ROOT / "docs" / "images")
    draw_front(ROOT / "docs" / "images")
    draw_carry(ROOT / "docs" / "images")
    draw_failures(ROOT / "docs" / "images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
