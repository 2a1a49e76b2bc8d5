"""What the verbs print, and their small common parts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from cyclopts import Parameter

from zskd.errors import ZskdError

if TYPE_CHECKING:
    from zskd.classifier import Classifier
    from zskd.estimate import Estimate

Flag = Annotated[bool, Parameter(negative="")]
"""A switch that is either given or not."""
Verbose = Annotated[bool, Parameter(name=("--verbose", "-v"), negative="")]
"""The switch for details."""


def say(text: str) -> None:
    """Print a result on standard output."""
    print(text, file=sys.stdout, flush=True)


def print_matrix(title: str, values: np.ndarray, names: tuple[str, ...]) -> None:
    """Print a (K, K) matrix with its class names, two digits behind the point."""
    width = max(6, *(len(name) + 1 for name in names))
    say(f"{title}:")
    say(" " * width + "".join(name.rjust(width) for name in names))
    for name, row in zip(names, values, strict=True):
        say(name.rjust(width) + "".join(f"{value:.2f}".rjust(width) for value in row))


def say_estimate(student: Classifier, teacher: Classifier, from_real: bool) -> Estimate | None:
    """Print how a student may agree with its teacher on real images, unless it learned from some."""
    from zskd.estimate import estimate_agreement

    if from_real:
        say("agreement on real images is not estimated: this is for students that have not seen any")
        return None
    estimate = estimate_agreement(student, teacher)
    for line in estimate.lines():
        say(line)
    return estimate


def must_be_new(folder: Path) -> None:
    """Refuse to write over a finished checkpoint."""
    if (folder / "card.json").exists():
        raise ZskdError(f"{folder} is finished already: choose another folder, or delete it")
