"""Pages of help: `--help` shows the settings most used, each in a sentence; `--help-all` all, in full."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from zskd.config.groups import DETAILS

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

FLAGS = ("--help", "-h", "--help-all")
_COLUMN = 26
"""Column at which descriptions start."""
_MANY = 8
"""Choices; more than these are listed by `--help-all` only."""


def examples(*commands: str) -> str:
    """Return the epilogue of a help page: examples, one below the other."""
    return "  \n".join(("Examples:", *(f"`{command}`" for command in commands)))


def default_in_help(value: Any) -> str | None:
    """Return a default as it would be typed on the command line; None for those that need no words."""
    if value is None or value is False or value in ({}, ()):
        return None
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


class HelpFormatter:
    """Prints the parts of a help page, as cyclopts asks for them.

    Args:
        everything: whether to show all settings in full, as `--help-all` does.
    """

    def __init__(self, *, everything: bool) -> None:
        self._everything = everything
        self._first = True
        self.shortened = False
        """Whether anything of the page was left out."""

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Print the first line."""
        _print(console, f"Usage: {usage}")

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        """Print what the command does."""
        console.print(description)

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a group of settings, or of commands."""
        if not panel.entries:
            return
        if panel.title in DETAILS and not self._everything:
            self.shortened = True
            return
        if not self._first:
            console.print()
        self._first = False
        console.print(f"{panel.title}:", style="bold", highlight=False)
        for entry in panel.entries:
            _print_row(console, self._label(entry), self._text(entry, console))

    def _label(self, entry: HelpEntry) -> str:
        names = entry.positive_names
        if names and not self._everything:
            names = (min(names, key=lambda name: (name.count("."), len(name))),)
        # the negative of what is off by default, or of a list, is of no use
        negative = entry.negative_names if entry.default == "True" else ()
        metavar = (entry.metavar or "").replace("CHOICE|STR", "NAME").replace("CHOICE", "NAME")
        if entry.positional_label:
            return entry.positional_label
        return " ".join(filter(None, (*names, *entry.positive_shorts, metavar, *negative)))

    def _text(self, entry: HelpEntry, console: Console) -> str:
        """Return the description, then choices, the default, and whether the option is needed."""
        text = _plain(entry.description, console)
        choices = f" [{', '.join(entry.choices)}]" if entry.choices else ""
        default = f" [default: {entry.default}]" if entry.default is not None else ""
        required = " [required]" if entry.required and not entry.positional_label else ""
        if self._everything:
            return text + choices + default + required
        sentence, dot, rest = text.partition(". ")
        few = choices if len(entry.choices or ()) <= _MANY else ""
        room = console.width - _COLUMN - len(sentence + dot + few)
        short = default if len(default) <= room else ""
        self.shortened |= bool(rest) or (few, short) != (choices, default)
        return sentence + dot.strip() + few + short + required


def _plain(description: Any, console: Console) -> str:
    """Return the text of a description, which cyclopts made Markdown of."""
    lines = console.render_lines(description, console.options.update(width=1000), pad=False)
    return " ".join("".join(part.text for line in lines for part in line).split())


def _print_row(console: Console, label: str, text: str) -> None:
    """Print label and text side by side, or one above the other if the label is long."""
    label, indent = f"  {label}", " " * _COLUMN
    beside = len(label) < _COLUMN
    if not beside:
        _print(console, label)
    first = label.ljust(_COLUMN) if beside else indent
    filled = textwrap.fill(
        text,
        console.width,
        initial_indent=first,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
    _print(console, filled)


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
