"""A budget of teacher passes: how many images and how many training steps stay within it.

Unlike a budget of minutes it does not depend on the machine: what an image and a step cost is counted, not
timed, and known before anything is made. The share of the sets is the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from zskd.config.distillation import DistillConfig
from zskd.config.recipe import Recipe
from zskd.core.errors import ZskdError
from zskd.core.passes import StagePasses, teacher_passes
from zskd.core.progress import Progress
from zskd.models.classifier import Classifier
from zskd.run.arms import Arm, plan_students, trained_as
from zskd.run.pictures import passes_of_pictures
from zskd.run.shares import FEWEST_STEPS, FOR_SETS, counts_to_choose, least_count
from zskd.synthesis.settling import some_impressions
from zskd.synthesis.shard import entry_of
from zskd.synthesis.sizes import of_size
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet


@dataclass(frozen=True)
class PassBudget:
    """What a budget of passes allows."""

    limit: int
    """Forward and backward passes of the teacher, at most."""
    count: int | None
    """Images in each set; None without sets."""
    sets: int
    """Passes for all sets, if every image takes all its steps."""
    steps: int
    """Of each student."""
    students: int
    """Passes for the steps of all students."""
    pictures: int = 0
    """Passes for a look at the user's pictures and for their labels, at most."""

    @property
    def words(self) -> str:
        """What will be done."""
        images = "" if self.count is None else f"{self.count:,} images in each set ({self.sets:,} at most), "
        pictures = f"the pictures ({self.pictures:,} at most), " if self.pictures else ""
        return (
            f"{self.limit:,} passes of the teacher allow {images}{pictures}{self.steps:,} steps of each "
            f"student ({self.students:,})"
        )


def within_passes(recipe: Recipe, teacher: Classifier, arms: Sequence[Arm]) -> tuple[Recipe, PassBudget]:
    """Return the recipe with as many images and steps as its passes allow, and what they allow.

    Args:
        recipe: with a limit of passes.
        teacher: as for `plan_passes`.
        arms: of the full recipe.

    Raises:
        ZskdError: the limit is too small.
    """
    specs = list({arm.set_name: arm.spec for arm in arms if arm.spec is not None}.values())
    trainings = [trained_as(one) for one in plan_students(recipe, arms)]
    plan = plan_passes(recipe, teacher, specs, trainings, pictures=passes_of_pictures(recipe, teacher))
    if plan.count is not None:
        recipe = replace(recipe, count=plan.count, rate=None)
    return with_steps(recipe, plan.steps), plan


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """Return the recipe with so many steps of each student."""
    return replace(recipe, distill=replace(recipe.distill, steps=steps, epochs=None))


def plan_passes(
    recipe: Recipe,
    teacher: Classifier,
    specs: Sequence[SetSpec],
    trainings: Sequence[DistillConfig],
    *,
    pictures: int = 0,
) -> PassBudget:
    """Choose the number of images and of steps: a quarter of the passes for the sets, the rest for the steps.

    There are at least 300 images and 100 steps, and no more images than the recipe has.

    Args:
        recipe: with a limit of passes.
        teacher: for its classes and the size of its images; trained or not.
        specs: of the full sets.
        trainings: of the students.
        pictures: passes for the user's pictures, at most.

    Raises:
        ZskdError: the limit is too small, or sets no number of steps.
    """
    assert recipe.passes is not None
    limit, count, sets = recipe.passes, None, 0
    if not any(_reads_teacher(one) for one in trainings):
        raise ZskdError(
            "--passes sets no number of steps, because a step takes no pass of the teacher: leave it out and "
            "give --distill.steps, or give a --distill.teacher-weight above 0"
        )
    if specs:
        fewest = least_count(specs[0], teacher.classes)

        def takes(size: int) -> int:
            return sum(set_passes(teacher, replace(spec, count=size)) for spec in specs)

        choice = counts_to_choose(specs[0], teacher.classes, fewest)
        count = choice[max(0, bisect_right(choice, FOR_SETS * limit, key=takes) - 1)]
        sets = takes(count)
        least, most = takes(fewest), takes(specs[0].count)
    else:
        least = most = 0
    steps = steps_within(trainings, limit - sets - pictures)
    if steps < FEWEST_STEPS:
        learning = pictures + sum(training_passes(one, FEWEST_STEPS) for one in trainings)
        needed = max(least + learning, min(most + learning, ceil(learning / (1 - FOR_SETS))))
        raise ZskdError(
            f"--passes {limit} allows {max(0, steps)} steps, and a student needs at least {FEWEST_STEPS}: "
            f"give --passes {needed} or more"
        )
    students = sum(training_passes(one, steps) for one in trainings)
    return PassBudget(limit, count, sets, steps, students, pictures)


def correct_steps(
    plan: PassBudget, sets: Mapping[str, TransferSet], trainings: Sequence[DistillConfig], progress: Progress
) -> int:
    """Return the steps of each student: as planned, or fewer where sets and pictures took more than planned.

    Args:
        plan: from `plan_passes`.
        sets: complete, those of the user's pictures included.
        trainings: of the students.
        progress: logs the difference.

    Raises:
        ZskdError: nothing is left for the students.
    """
    taken = sum(teacher_passes(one.manifest.passes or {}) for one in sets.values())
    foreseen = plan.sets + plan.pictures
    steps = steps_within(trainings, plan.limit - max(foreseen, taken))
    if steps == plan.steps:
        return steps
    if steps < FEWEST_STEPS:
        needed = taken + sum(training_passes(one, FEWEST_STEPS) for one in trainings)
        raise ZskdError(
            f"the sets took {taken:,} passes, and --passes {plan.limit} leaves {max(0, steps)} steps: "
            f"give --passes {needed} or more"
        )
    progress.log(f"passes: the sets took {taken:,} instead of {foreseen:,}, which leaves {steps:,} steps")
    return steps


def set_passes(teacher: Classifier, spec: SetSpec) -> int:
    """Return the teacher passes for a set whose images take all their steps: an upper bound.

    Args:
        teacher: for its classes and the size of its images.
        spec: of the set.
    """
    spec = of_size(teacher, spec)
    total, classes = 0, teacher.classes
    if spec.searches_rate or spec.asks_about_flips:
        question = some_impressions(spec)
        # the rate as set, one that is of no use, and as many as the search may go on; flips need one of these
        rates = 2 + spec.synthesis.learning_rate_search if spec.searches_rate else 1
        total += rates * (set_passes(teacher, question) + spec.searches_rate * question.count)
        total += 2 * spec.asks_about_flips * question.count  # as they are, and mirrored
    for number in range(spec.shards(classes)):
        indices = spec.indices(number, classes)
        begun = _starts(teacher, spec, indices, optimised=True) if spec.optimises else 0
        total += spec.own_method.passes_of_start(spec.synthesis) * _filled(begun, spec.synthesis.batch_size)
        total += _filled(len(indices), spec.synthesis.batch_size)
        if spec.synthesis.candidates > 1:
            starts = _starts(teacher, spec, indices, optimised=False)
            total += spec.synthesis.candidates * _filled(starts, spec.synthesis.batch_size)
    return total


def _starts(teacher: Classifier, spec: SetSpec, indices: range, *, optimised: bool) -> int:
    """Return how many start images a shard begins with, or how many of them are those of optimised images."""
    together = spec.own_method.images_per_start
    if together == 1:
        return spec.planned(indices, teacher.classes) if optimised else len(indices)
    of_these = [i for i in indices if not optimised or entry_of(teacher, spec, i).optimised]
    return len({index // together for index in of_these})


def _filled(images: int, batch: int) -> int:
    """Return the images of full batches, of this size or of one halved for want of memory."""
    most = images
    while batch > 1:
        most = max(most, ceil(images / batch) * batch)
        batch //= 2
    return most


def training_passes(config: DistillConfig, steps: int) -> int:
    """Return the teacher passes of so many training steps, generator and image bank included.

    Args:
        config: of the training.
        steps: of the student.
    """
    return training_counts(config, steps).teacher


def _reads_teacher(config: DistillConfig) -> bool:
    """Whether each step reads the teacher's outputs or features of its images, and not labels alone."""
    return bool(config.teacher_weight or config.features.weight)


def training_counts(config: DistillConfig, steps: int) -> StagePasses:
    """Return the passes of so many training steps, generator and image bank included.

    Those of the student are an upper bound where a generator's loss does not read the student. What comes
    before and after the steps is left out: first weights from the teacher, and statistics of batch-norm.

    Args:
        config: of the training.
        steps: of the student.
    """
    batch, generator, bank = config.batch_size, config.generator, config.image_bank
    asked = steps * batch if _reads_teacher(config) else 0
    both = warm_up = 0  # forward and backward through both networks, or through the teacher alone
    if generator.share:
        images = round(generator.share * batch)
        both += ceil(steps / generator.student_steps) * images
        warm_up = generator.warm_up * images if steps else 0
    if bank.share:
        rounds = max(0, min(bank.count, steps) - 1)
        both += rounds * bank.steps * min(bank.images, bank.keep)
    return StagePasses(
        teacher_forward=asked + both + warm_up,
        teacher_backward=both + warm_up,
        student_forward=steps * batch + both,
        student_backward=steps * batch + both,
    )


def steps_within(trainings: Sequence[DistillConfig], passes: int) -> int:
    """Return the steps of each student that stay within so many passes together; −1 for less than none."""
    most = max(0, passes) + 1
    return (
        bisect_right(range(most), passes, key=lambda n: sum(training_passes(one, n) for one in trainings)) - 1
    )
