"""The table of docs/extending.md: every name that an option takes, from the registry."""

from __future__ import annotations

from collections.abc import Callable

from zskd.config.registry import REGISTRIES


def names() -> str:
    """One row per name; options whose names can also be code of the user's own carry a star."""
    lines = ["| option | name | what it is |", "|---|---|---|"]
    for option, registry in REGISTRIES.items():
        for name, entry in registry.items():
            star = " *" if registry.takes_code else ""
            lines.append(f"| `{option}`{star} | `{name}` | {entry.summary} |")
    return "\n".join([*lines, "", "\\* takes `file.py:Name` as well."])


NAMES_TABLES: dict[str, Callable[[], str]] = {"names": names}
