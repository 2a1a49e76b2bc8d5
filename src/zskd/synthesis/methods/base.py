"""What a method asks of the synthesis."""

from __future__ import annotations

from dataclasses import dataclass

from zskd.core.types import TargetsArray


@dataclass(frozen=True)
class TargetBatch:
    """Targets of some images and which of these are optimised."""

    targets: TargetsArray
    """What the teacher shall answer (N, K); the rows of images that are not optimised are not read."""
    optimised: list[bool]
    """The others stay as they started and take the teacher's own answer as target."""
