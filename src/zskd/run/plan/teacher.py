"""What the teacher of a run costs."""

from __future__ import annotations

import copy
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from zskd.config.recipe import Recipe
from zskd.core.progress import Progress
from zskd.core.tensors import stored_bytes
from zskd.core.timing import ENDLESS, Enough, Stopwatch
from zskd.evaluation.inspection import count_multiply_adds
from zskd.evaluation.sanity import log_findings
from zskd.models.classifier import Classifier
from zskd.run.plan.parts import BACKWARD, NO_PASSES, Part
from zskd.run.similarity import SIMILARITY, has_similarity, write_similarity
from zskd.teacher.sources import Sources, make_teacher
from zskd.teacher.training import train_teacher

_LONGEST_TRAINING = 60.0
"""Seconds of the longest training that is done, and not only timed: an untrained network does not tell how
many steps its images take."""


def sample_teacher(
    recipe: Recipe, sources: Sources, folder: Path, *, seconds: float
) -> tuple[Classifier, Part]:
    """Return the teacher, frozen, and what it costs: made as the run does, or untrained where that is long.

    Args:
        recipe: of the run.
        sources: of the recipe; not changed.
        folder: for temporary files.
        seconds: that steps of its training are timed for.

    Returns:
        The teacher and its part of the run, with `at_most` where the teacher is not trained.

    Raises:
        ZskdError: as for `make_teacher`, or the teacher gives no finite answers.
    """
    training, images, own = 0.0, 0, replace(sources, model=copy.deepcopy(sources.model))
    if sources.card is None:
        training, images = _time_training(recipe, sources, seconds)
    long = training > _LONGEST_TRAINING
    started = time.perf_counter()
    teacher = own.model.freeze() if long else make_teacher(recipe, own, folder / "teacher", Progress())
    log_findings(teacher, Progress())
    if has_similarity(teacher):
        write_similarity(teacher, folder / SIMILARITY)
    spent = time.perf_counter() - started
    return teacher, Part(
        stage="teacher",
        serial=training + spent if long else spent,
        passes=NO_PASSES.model_copy(update={"teacher_forward": images, "teacher_backward": images}),
        multiply_adds=count_multiply_adds(teacher) * images * (1 + BACKWARD),
        disk=stored_bytes(teacher.module.state_dict()),
        at_most=long,
    )


def _time_training(recipe: Recipe, sources: Sources, seconds: float) -> tuple[float, int]:
    """Return the seconds of a teacher's training, estimated from some steps, and the images of all steps."""
    data, config = sources.data, recipe.teacher
    assert data is not None, "without data, the teacher is given"
    watch, model = Stopwatch(seconds), copy.deepcopy(sources.model)
    with suppress(Enough):
        train_teacher(model, data, replace(config, steps=ENDLESS, epochs=None), seed=0, progress=watch)
    pace, steps = watch.pace(), config.total_steps(len(data.train))
    return pace.start + steps * pace.step, steps * config.batch_size
