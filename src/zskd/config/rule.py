"""What a teacher gets where nothing else is named: preset, student and number of images, by rule.

docs/default.md has the rule as a table, with the records behind each row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zskd.config.presets import DEFAULT_PRESET
from zskd.config.registry import HALF


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """What the rule reads of a teacher and of what is asked for."""

    batch_norms: int
    """Layers that keep running statistics of their inputs."""
    chain: bool
    """Whether the network is one plain chain of layers, so that `half` of it can be made."""
    limited: bool = False
    """Whether a budget of minutes or passes says how much is made of it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the rule."""

    values: Mapping[str, Any]
    """Settings of the recipe that are chosen."""
    when: str
    """The condition, in words that follow "the teacher"."""
    holds: Callable[[TeacherFacts], bool]
    """Whether it is met."""


RULE = (
    (
        Row(
            values={"preset": "batch_norm_chain"},
            when="is a chain of layers with batch-norm",
            holds=lambda facts: facts.batch_norms > 0 and facts.chain,
        ),
        Row(
            values={"preset": "batch_norm"},
            when="has batch-norm",
            holds=lambda facts: facts.batch_norms > 0,
        ),
        Row(values={"preset": DEFAULT_PRESET}, when="has no batch-norm", holds=lambda _: True),
    ),
    (
        Row(
            values={"count": 60_000},
            when="has batch-norm and a budget says how many fit",
            holds=lambda facts: facts.batch_norms > 0 and facts.limited,
        ),
        Row(values={"count": 6_000}, when="has batch-norm", holds=lambda facts: facts.batch_norms > 0),
        Row(values={"count": 20_000}, when="has no batch-norm", holds=lambda _: True),
    ),
    (
        Row(values={"student": HALF}, when="is a chain of layers", holds=lambda facts: facts.chain),
        Row(values={"student": "narrow:0.5"}, when="is no chain of layers", holds=lambda _: True),
    ),
)
"""Of each group, the first row that holds is taken; the last one always does."""


def choose(facts: TeacherFacts) -> tuple[Row, ...]:
    """Return the row of each group that holds."""
    return tuple(next(row for row in group if row.holds(facts)) for group in RULE)
