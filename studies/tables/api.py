"""The table of docs/api.md: every public name, by stage, from the docstrings."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable

import zskd
from records import ROOT
from zskd.core.tables import markdown_table

_STAGES = {
    "teacher": "Teachers",
    "synthesis": "Images",
    "transfer_set": "Transfer sets",
    "distillation": "Students",
    "evaluation": "Measurements and estimates",
    "export": "Exports",
    "run": "Whole runs",
    "report": "Whole runs",
    "models": "Networks",
    "data": "Data",
    "config": "Settings",
    "core": "Addresses, errors, progress, processes and random numbers",
}
"""Folder of the package -> heading, in the order of the page."""


def api() -> str:
    """One table for each stage: the names and what they are for."""
    tree = ast.parse((ROOT / "src" / "zskd" / "__init__.pyi").read_text(encoding="utf-8"))
    folders = {
        one.name: (node.module or "").split(".")[0]
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for one in node.names
    }
    parts = []
    for title in dict.fromkeys(_STAGES.values()):
        names = [name for name, folder in folders.items() if _STAGES[folder] == title]
        rows = [(f"`zskd.{name}`", _about(name)) for name in sorted(names, key=str.lower)]
        parts.append(f"### {title}\n\n{markdown_table(('name', 'what it is for'), rows)}")
    return "\n\n".join(parts)


def _about(name: str) -> str:
    """Return the first sentence of a docstring."""
    value = getattr(zskd, name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return {"REGISTRIES": "Every name that an option takes.", "__version__": "The version."}[name]
    first = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=\.) (?=[A-Z])", first)[0]
    return re.sub(":$", ".", sentence)


API_TABLES: dict[str, Callable[[], str]] = {"api": api}
