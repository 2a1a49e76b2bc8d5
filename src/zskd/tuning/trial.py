"""One trial: its student is trained as that of any cell, and measured on validation images."""

from __future__ import annotations

from functools import lru_cache

from zskd.config.data import DataConfig
from zskd.config.recipe import Recipe
from zskd.core.artefact import Artefact, AtLeastOne, Percent, Seconds, Sha256
from zskd.core.passes import Passes
from zskd.core.progress import Progress
from zskd.core.tensorboard import tracked
from zskd.data.datasets import Split, load_data
from zskd.evaluation.metrics import accuracy, agreement
from zskd.experiment.cell import Job, passes_of_cell, timed, train_cell
from zskd.experiment.definition import Arm
from zskd.experiment.plan import Cell


class Measured(Artefact):
    """A student, measured on validation images."""

    agreement: Percent
    """Percentage of the images for which student and teacher predict the same class."""
    accuracy: Percent
    images: AtLeastOne
    """Number of validation images."""
    student_sha256: Sha256
    parameters: AtLeastOne
    """Of the student."""
    seconds: Seconds
    """For its images, its training and its measurement; images that trials share count for each."""
    passes: Passes | None
    """Of teacher and student, by stage, those for its images included; None where they are not known."""


def trial_cell(number: int, recipe: Recipe) -> Cell:
    """Return the cell of a trial.

    Args:
        number: of the trial.
        recipe: with its settings.
    """
    name = f"trial-{number}"
    arm = Arm(title=name, images="made" if recipe.distill.needs_set else "generated")
    return Cell(name, "trial", arm, None, recipe, None)


def run_trial(job: Job, progress: Progress) -> Measured:
    """Train the student of a trial and measure it, in a worker.

    Args:
        job: the cell and what it needs.
        progress: receives steps, images and results.

    Raises:
        ZskdError: an input is missing or damaged, or training fails.
    """
    recipe = job.cell.recipe
    with tracked(progress, recipe.tensorboard, job.cell.name) as tracker:
        with timed(job) as clock:
            made = train_cell(job, tracker)
            images = load_validation(recipe.data, made.teacher.spec.shape, made.teacher.class_names)
            agreed = agreement(made.teacher, made.student, images.images)
            correct = accuracy(made.student, images)
        steps = job.cell.student_steps(job.count if made.images is None else len(made.images))
        tracker.note("validation/agreement", agreed.percent, steps)
        tracker.note("validation/accuracy", correct.percent, steps)
    return Measured(
        agreement=agreed.percent,
        accuracy=correct.percent,
        images=agreed.n,
        student_sha256=made.student.fingerprint(),
        parameters=made.student.parameters_count,
        seconds=round(job.set_seconds + clock.seconds["student"], 1),
        passes=passes_of_cell(job, made.images),
    )


@lru_cache(maxsize=1)
def load_validation(data: DataConfig, shape: tuple[int, int, int], names: tuple[str, ...]) -> Split:
    """Return the validation images (N, C, H, W) in [0, 1]; no test image is read.

    A worker reads them once for all its trials.

    Args:
        data: of the search.
        shape: of the images.
        names: of the teacher's classes, which number those of the data.

    Raises:
        ZskdError: the data are missing, or have another shape or other classes.
    """
    return load_data(data, shape, test=False).for_classes(names).validation
