"""The methods: one file each, one signature for each of two kinds, two explicit tables.

A method that fills a transfer set says what the teacher shall answer for each index and which images are
optimised towards it; starts, optimisation and storage are the same for all. A method with a generator that
plays against the student says what the generator is after; the game itself is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from zskd.classifier import Classifier
from zskd.config import Targets
from zskd.methods.class_impressions import class_impressions
from zskd.methods.dfad import dfad
from zskd.methods.noise import noise
from zskd.methods.soft_targeted import soft_targeted
from zskd.methods.wanted import Wanted
from zskd.methods.zskd import zskd
from zskd.methods.zskt import zskt
from zskd.targets import Place
from zskd.types import Logits

Method = Callable[[Classifier, list[Place], list[int], int, Targets], Wanted]
"""(teacher, places in the plan, indices, seed, settings) → what is wanted of the teacher."""

METHODS: dict[str, Method] = {
    "zskd": zskd,
    "soft_targeted": soft_targeted,
    "class_impressions": class_impressions,
    "noise": noise,
}

Rule = Callable[[Logits, Logits], Tensor]
"""(student's logits, teacher's logits) → what a generator that plays against the student makes small."""

GAMES: dict[str, Rule] = {"dfad": dfad, "zskt": zskt}


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

__all__ = ["CONTROLS", "GAMES", "METHODS", "Control", "Method", "Rule", "Wanted"]
