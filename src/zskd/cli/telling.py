"""What a verb tells on standard output: lines for people, or one JSON document for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import Parameter

from zskd.core.errors import ZskdError
from zskd.core.tables import WIDTH, Table

if TYPE_CHECKING:
    from zskd.evaluation.agreement import Estimate
    from zskd.models.checkpoint import Origin
    from zskd.models.classifier import Classifier

Json = Annotated[bool, Parameter(name="--json", negative="")]
"""The switch for a JSON document."""


PICTURES_AT_ONCE = 64
"""Pictures that are read and classified together, fewer of large ones."""


def print_line(text: str) -> None:
    """Print one line of a result on standard output."""
    print(text, file=sys.stdout, flush=True)


def print_error(text: str) -> None:
    """Print one line on standard error."""
    print(text, file=sys.stderr, flush=True)


def without_labels(folder: Path, names: tuple[str, ...]) -> str:
    """Return the line that pictures have no labels, because no folder has the name of a class."""
    return f"without labels: no folder in {folder} is named after a class ({', '.join(names[:5])})"


class Teller:
    """Prints lines as they come; with `as_json` nothing but the document at the end.

    Args:
        as_json: whether the user wants a JSON document.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def line(self, text: str) -> None:
        """Print one line of a result."""
        if not self.as_json:
            print_line(text)

    def table(self, table: Table) -> None:
        """Print a table, with bold letters on a terminal."""
        for line in table.lines(styled=not self.as_json and sys.stdout.isatty()):
            self.line(line)

    def matrix(self, title: str, values: np.ndarray, names: tuple[str, ...]) -> None:
        """Print a (K, K) matrix with its class names and two decimal places, as many columns as fit."""
        width = max(6, *(len(name) + 1 for name in names))
        beside = max(1, WIDTH // width - 1)
        for start in range(0, len(names), beside):
            columns = slice(start, start + beside)
            self.line(f"{title}:" if start == 0 else "")
            self.line(" " * width + "".join(name.rjust(width) for name in names[columns]))
            for name, row in zip(names, values[:, columns], strict=True):
                self.line(name.rjust(width) + "".join(f"{value:.2f}".rjust(width) for value in row))

    def estimate(self, teacher: Classifier, student: Classifier, origin: Origin) -> Estimate | None:
        """Print and return the estimated agreement on real images; None, and why, where there is none.

        Args:
            teacher: not changed.
            student: not changed.
            origin: of the student. The cost of the estimate should not exceed that of its transfer set.
        """
        from zskd.evaluation.agreement import estimate_agreement, not_estimated
        from zskd.evaluation.probes import make_probes

        if reason := not_estimated(teacher, origin):
            self.line(reason)
            return None
        probes = make_probes(teacher, count=origin.transfer_set_images, workers=0)
        estimate = estimate_agreement(teacher, student, probes)
        for line in estimate.lines():
            self.line(line)
        return estimate

    def document(self, values: Mapping[str, Any]) -> None:
        """Print the document, if the user wants one: its keys are in the order given.

        Args:
            values: plain JSON values, and paths.
        """
        if self.as_json:
            print_line(json.dumps(values, indent=2, allow_nan=False, default=os.fspath))


class Broken:
    """The files that cannot be read: told at once on standard error, and by the exit code at the end."""

    def __init__(self) -> None:
        self.files: list[Path] = []

    def tell(self, path: Path, error: ZskdError) -> None:
        """Tell of a file that is left out."""
        self.files.append(path)
        print_error(f"{error}; it is left out")

    def end(self) -> None:
        """End the command with the exit code 1 if there were any."""
        if self.files:
            raise SystemExit(1)
