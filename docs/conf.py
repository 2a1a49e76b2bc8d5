"""The documentation site: `make docs` writes it into build/site.

Its pages are the Markdown files that are read in the repository, too. The site adds two things: the contents
at the side, from the headings and links of index.md, and the reference of Python, from docstrings.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from sphinx.ext.napoleon import Config, GoogleDocstring

import zskd

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "zskd"
author = "The zskd authors"
copyright = "The zskd authors, Apache-2.0"
release = version = zskd.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "CHANGELOG.md",
    "examples/README.md",
    "results/README.md",
    "studies/README.md",
]
exclude_patterns = ["**/.*"]

myst_heading_anchors = 4
highlight_language = "none"
suppress_warnings = ["ref.python"]  # the type bytes and two fields with this name
default_role = "code"  # docstrings write `names` as Markdown does

autodoc_default_options = {"members": True, "show-inheritance": False}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"zskd {release}"
html_copy_source = False
html_additional_pages = {"index": "redirect.html"}
templates_path = ["templates"]


def contents(text: str) -> str:
    """Return a table of contents: one part for each heading of the start page, with the pages below it."""
    parts = []
    for heading, below in re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", text, flags=re.MULTILINE):
        pages = re.findall(r"^- \[[^\]]+\]\(([^)]+)\.md\)", below, flags=re.MULTILINE)
        paths = ["/" + posixpath.normpath(f"docs/{page}") for page in pages]
        parts.append("\n".join(["```{toctree}", ":hidden:", f":caption: {heading}", "", *paths, "```"]))
    return "\n\n".join(parts)


def reference() -> str:
    """Return the reference of all public names, in the order of the alphabet."""
    parts = []
    for name in sorted(zskd.__all__, key=str.lower):
        if name not in ("REGISTRIES", "__version__"):
            value = getattr(zskd, name)
            kind = "class" if isinstance(value, type) else "function"
            kind = "exception" if isinstance(value, type) and issubclass(value, Exception) else kind
            parts.append(f"### {name}\n\n```{{eval-rst}}\n.. auto{kind}:: zskd.{name}\n```")
    return "\n\n".join(parts)


def extended(app: Sphinx, page: str, source: list[str]) -> None:
    """Append what the site alone has."""
    if page == "docs/index":
        source[0] += "\n" + contents(source[0])
    if page == "docs/api":
        source[0] += "\n## Reference\n\n" + reference()


def as_text(app: Sphinx, kind: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText: its sections, and the bars of norms, which are names there."""
    for number, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line)
        lines[number] = "".join(part if part[:1] == "`" else part.replace("|", r"\|") for part in parts)
    if kind != "attribute":  # their text would lose what stands before its first colon
        lines[:] = GoogleDocstring(lines, Config(), app, kind, name, thing).lines()


def setup(app: Sphinx) -> None:
    """Connect the above with Sphinx."""
    app.connect("autodoc-process-docstring", as_text)
    app.connect("source-read", extended)
