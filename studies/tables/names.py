"""The tables of docs/extending.md: every name that an option takes, and the arguments of networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

from zskd.config.registry import ARCHITECTURES, REGISTRIES


def names() -> str:
    """One row per name; options whose names can also be code of the user's own carry a star."""
    lines = ["| option | name | what it is |", "|---|---|---|"]
    for option, registry in REGISTRIES.items():
        for name, entry in registry.items():
            star = " *" if registry.takes_code else ""
            lines.append(f"| `{option}`{star} | `{name}` | {entry.summary} |")
    return "\n".join([*lines, "", "\\* takes `file.py:Name` as well."])


def networks() -> str:
    """One row per built-in network with the arguments that may follow its name, and their defaults."""
    lines = ["| network | arguments |", "|---|---|"]
    for name, entry in ARCHITECTURES.items():
        function, fixed = ARCHITECTURES.load_with_arguments(getattr(entry, "example", name))
        kinds = get_type_hints(function)
        free = [
            _argument(one, kinds[key])
            for key, one in inspect.signature(function).parameters.items()
            if one.kind == one.KEYWORD_ONLY and key not in fixed
        ]
        lines.append(f"| `{name}` | {', '.join(free) or '–'} |")
    return "\n".join(lines)


def _argument(parameter: inspect.Parameter, kind: Any) -> str:
    """Return an argument with its default and, where it is one of a few words, the others."""
    words = [str(one) for one in get_args(kind) if one != parameter.default]
    others = f" ({' or '.join(words)})" if get_origin(kind) is Literal else ""
    return f"`{parameter.name}={parameter.default}`{others}"


NAMES_TABLES: dict[str, Callable[[], str]] = {"names": names, "networks": networks}
