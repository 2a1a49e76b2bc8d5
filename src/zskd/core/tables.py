"""Tables as text: in Markdown for pages, and in columns for a terminal."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

WIDTH = 80
"""Columns of a terminal; no line of a table is longer."""


@dataclass(frozen=True)
class Table:
    """A heading and rows of as many cells. The first column has names and is wrapped where it is too wide.

    A cell may have two lines, such as a number and its interval, which Markdown gets as one.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    """What a terminal shows above it; a page has its own headings."""
    bold: Collection[int] = ()
    """Rows that stand out on a terminal that can show it."""

    def markdown(self) -> str:
        """Return the table in Markdown."""
        return markdown_table(self.head, ([cell.replace("\n", " ") for cell in row] for row in self.rows))

    def lines(self, *, styled: bool = False) -> list[str]:
        """Return the lines of the table for a terminal, each of at most `WIDTH` characters.

        Args:
            styled: with escape codes for bold letters; else plain text.
        """
        from rich import box
        from rich.console import Console
        from rich.table import Table as Columns
        from rich.text import Text

        drawn = Columns(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for number, column in enumerate(zip(self.head, *self.rows, strict=True)):
            if number == 0:
                drawn.add_column(Text(self.head[0]), overflow="fold")
            else:
                drawn.add_column(Text(self.head[number]), justify=_side(column), width=_narrowest(*column))
        for number, row in enumerate(self.rows):
            drawn.add_row(*map(Text, row), style="bold" if number in self.bold else None)
        shown = io.StringIO()
        console = Console(
            file=shown,
            width=WIDTH,
            force_terminal=styled,
            color_system="standard" if styled else None,  # without any, rich writes no escape codes
            legacy_windows=False,
        )
        console.print(drawn)
        title = [self.title] if self.title else []
        return [*title, *(line.rstrip() for line in shown.getvalue().splitlines())]


def _side(column: Sequence[str]) -> Literal["left", "right"]:
    """Numbers stand on the right."""
    return "right" if any(cell[:1].isdigit() for cell in column[1:]) else "left"


def _narrowest(head: str, *cells: str) -> int:
    """Return the width that wraps the heading between its words, and no cell."""
    return max(map(len, (*head.split(), *(line for cell in cells for line in cell.split("\n")))), default=1)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown: a heading, and rows of as many cells, in which `|` stands for itself."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"

    return "\n".join([line(head), "|---" * len(head) + "|", *map(line, rows)])
