"""Controls: arms that differ from the main one in their method alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Control:
    """An arm that differs from the main one in its method alone."""

    method: str
    start: Literal["smooth", "shapes", "uniform", "gaussian"] | None
    """First image, where it is not the main arm's."""
    title: str
    """How tables and figures call it."""


CONTROLS: dict[str, Control] = {
    "class_impressions": Control("class_impressions", None, "class impressions"),
    "noise_shapes": Control("noise", "shapes", "random shapes"),
    "noise_smooth": Control("noise", "smooth", "smooth noise"),
    "noise_white": Control("noise", "uniform", "white noise"),
}
