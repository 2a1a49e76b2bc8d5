"""The table of what is chosen for a teacher where nothing is named."""

from __future__ import annotations

from collections.abc import Callable

from zskd.config.rule import RULE
from zskd.experiment.report.tables import markdown_table


def rule() -> str:
    """Condition and chosen settings, in the order in which the rows are tried."""
    rows = [
        (
            f"the teacher {row.when}",
            ", ".join(
                f"`{key}: {value:,}`" if isinstance(value, int) else f"`{key}: {value}`"
                for key, value in row.values.items()
            ),
        )
        for group in RULE
        for row in group
    ]
    return markdown_table(("where", "is chosen"), rows)


RULE_TABLES: dict[str, Callable[[], str]] = {"rule": rule}
