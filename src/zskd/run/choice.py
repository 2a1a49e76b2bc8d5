"""The recipe for a teacher: what nobody named is chosen by rule from facts of the network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zskd.config.loading import choices, load_recipe
from zskd.config.presets import DEFAULT_PRESET
from zskd.config.recipe import Recipe
from zskd.config.registry import HALF
from zskd.config.rule import TeacherFacts, choose
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress
from zskd.models.batch_statistics import batch_norms
from zskd.models.classifier import Classifier
from zskd.models.factory import describe_half

_USUAL = {"preset": DEFAULT_PRESET, "student": HALF, "count": None}
"""What is chosen without a word."""


def facts_of(teacher: Classifier) -> TeacherFacts:
    """Return what the rule reads of a network, trained or not."""
    try:
        describe_half(teacher.module)
        chain = True
    except ZskdError:
        chain = False
    return TeacherFacts(batch_norms=len(batch_norms(teacher.module)), chain=chain)


def recipe_for(
    teacher: Classifier,
    recipe: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    only: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Recipe:
    """Return a recipe with preset, student and number of images that fit a teacher, where they are not named.

    Args:
        teacher: left as it is.
        recipe: as for `load_recipe`.
        overrides: as for `load_recipe`.
        only: settings that may be chosen; None: all that the rule has.
        progress: logs what was chosen, and why.

    Raises:
        ZskdError: as for `load_recipe`.
    """
    asked = load_recipe(recipe, overrides)
    limited = asked.budget is not None or asked.passes is not None
    rows = choose(replace(facts_of(teacher), limited=limited))
    chosen = choices(recipe, overrides or {}, rows, sized=limited and asked.distill.needs_set)
    chosen = {key: value for key, value in chosen.items() if only is None or key in only}
    for row in rows:
        new = {key: value for key, value in row.values.items() if key in chosen and value != _USUAL[key]}
        if new and progress is not None:
            words = " and ".join(f"{key} {value}" for key, value in new.items())
            progress.log(f"{words}, because the teacher {row.when}")
    return load_recipe(recipe, overrides, chosen=chosen)
