"""The measurements at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zskd.config.engines import open_engine
from zskd.config.recipe import Recipe
from zskd.config.registry import CONTROLS
from zskd.core.device import processor
from zskd.core.passes import Passes, all_in, counting, sum_known
from zskd.core.progress import Progress
from zskd.core.versions import source_commit, versions
from zskd.data.datasets import Dataset
from zskd.distillation.architecture import describe_student
from zskd.distillation.build import generated_images
from zskd.distillation.invariance import AskedChange
from zskd.evaluation.agreement import estimate_agreement
from zskd.evaluation.gain import Cost, Gain, measure_costs
from zskd.evaluation.metrics import accuracies, accuracy, agreement
from zskd.evaluation.probes import Probes, make_probes
from zskd.evaluation.sanity import is_reached
from zskd.models.classifier import Classifier
from zskd.run.arms import Arm, Trainee, execution, optimisation, plan_students, student_spec
from zskd.run.metrics import ArmMetrics, RunMetrics, SetFacts, SizeMetrics, StudentMetrics, TeacherMetrics
from zskd.run.similarity import has_similarity
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.methods.base import Method, make_method
from zskd.synthesis.methods.with_statistics import MethodWithStatistics
from zskd.synthesis.spec import HELD_OUT, SetSpec
from zskd.teacher.sources import Sources
from zskd.transfer_set.dataset import TransferSet

NOT_MEASURED = "accuracy not measured: no data"


def held_out_sets(
    recipe: Recipe, teacher: Classifier, folder: Path, progress: Progress
) -> dict[str, TransferSet]:
    """Return sets that no student was trained on, by kind: impressions, where they can be, and three noises.

    Args:
        recipe: of the run; `held_out_count` is the number of images of each kind.
        teacher: frozen.
        folder: of the run; complete sets in it are used.
        progress: receives steps.

    Raises:
        ZskdError: the teacher's logits are not finite, or the folder cannot be written.
    """
    return {
        name: build_transfer_set(
            teacher,
            spec,
            folder / "held_out" / name,
            workers=recipe.workers,
            engine=open_engine(recipe.engine),
            progress=progress,
        )
        for name, spec in held_out_specs(recipe, teacher).items()
    }


def held_out_specs(recipe: Recipe, teacher: Classifier) -> dict[str, SetSpec]:
    """Return the specs of the sets that no student is trained on, by kind.

    Args:
        recipe: as for `held_out_sets`.
        teacher: frozen.
    """
    own = make_method(recipe.method, recipe.method_settings)
    impressions = SetSpec(
        method=_held_out_method(own, teacher),
        count=recipe.held_out_count,
        seed=recipe.seed,
        first_index=HELD_OUT,
        targets=replace(recipe.targets, order="interleaved"),
        synthesis=replace(
            optimisation(recipe.synthesis, own),
            noise_share=0.0,
            missed="keep",
            carry_images=False,
            carry_moments=False,
        ),
    )
    specs = {"impressions": impressions} if is_reached(teacher) else {}
    for name, control in CONTROLS.items():
        if control.method == "noise" and control.start is not None:
            start = replace(impressions.synthesis, start=control.start)
            specs[name] = replace(impressions, method=control.method, synthesis=start)
    return specs


def _held_out_method(own: Method, teacher: Classifier) -> str:
    """Return the method of held-out impressions, the same whatever images the students are trained on."""
    if not has_similarity(teacher):
        return "class_impressions"
    # one that reads statistics of batch-norm says that the teacher has some
    return "zskd_bn" if isinstance(own, MethodWithStatistics) else "zskd"


def measure_run(
    recipe: Recipe,
    teacher: Classifier,
    arms: list[Arm],
    students: Mapping[str, Classifier],
    sets: Mapping[str, TransferSet],
    held_out: Mapping[str, TransferSet],
    sources: Sources,
    *,
    pictures: Mapping[str, TransferSet] | None = None,
    trained: Mapping[str, Passes | None],
    threads: int | None = None,
    changes: Sequence[AskedChange] = (),
    recipe_sha256: str,
    command: str | None = None,
) -> RunMetrics:
    """Measure everything once. The test images are used here only.

    Args:
        recipe: of the run, with the numbers of images and steps that a budget gave.
        teacher: frozen.
        arms: the method, then its controls.
        students: by the names of `plan_students`.
        sets: their training sets, by the names of the arms; none where a generator makes all images.
        held_out: images that agreement is measured on, by kind.
        sources: with the real images, if there are any.
        pictures: sets of the user's pictures, by their options.
        trained: passes until each student was trained, by the same names; None where not known.
        threads: that the student of the main arm was trained with; None where not known.
        changes: how the teacher answers changed images, where it was asked.
        recipe_sha256: of the recipe before its budget was applied.
        command: command line of the run; None from Python.

    Returns:
        Accuracy and agreement in percent with their intervals, counts and versions; without the seconds of
        the stages, of which this is one.

    Raises:
        ZskdError: the test images have another shape or more classes than the teacher.
    """
    count, data = _count(arms[0], sets), sources.data
    planned = plan_students(recipe, arms)
    with counting("evaluation", teacher=teacher) as tally:
        engine = open_engine(recipe.engine)
        probes = None
        if "impressions" in held_out:  # else no image can be optimised
            probes = make_probes(teacher, count=count, workers=recipe.workers, engine=engine)
        results = {
            one.name: _results(
                recipe,
                one,
                teacher,
                students[one.name],
                held_out,
                probes,
                data,
                _count(one.arm, sets),
                _of_arm(one.arm, sets, pictures or {}, trained[one.name]),
            )
            for one in planned
        }
        of_teacher_on_data = _accuracies(teacher, data)
    tried = [one for one in planned if one.arm is arms[0]]
    of_teacher, *costs = measure_costs([teacher, *(students[one.name] for one in tried)])
    return RunMetrics(
        run=recipe.name,
        preset=recipe.preset,
        student_steps=student_spec(recipe).steps(count),
        data=recipe.data.label,
        accuracy="measured" if data else NOT_MEASURED,
        teacher=TeacherMetrics(
            parameters=teacher.parameters_count,
            multiply_adds=of_teacher.multiply_adds,
            sha256=teacher.fingerprint(),
            **of_teacher_on_data,
        ),
        student=StudentMetrics(multiply_adds=costs[0].multiply_adds),
        gain=Gain(teacher=of_teacher, student=costs[0]),
        arms=tuple(results[arm.name] for arm in arms),
        sizes=_sizes(teacher, tried, results, costs) if len(tried) > 1 else (),
        sets={name: SetFacts.of(one) for name, one in sets.items()},
        seconds={},
        changes=tuple(changes),
        passes=_of_run({**sets, **(pictures or {})}, trained, held_out, tally.passes()),
        seed=recipe.seed,
        threads=threads or execution(recipe).threads_of_each(len(planned)),
        versions=versions(),
        processor=processor(),
        commit=source_commit(),
        command=command,
        recipe_sha256=recipe_sha256,
        sources=sources.hashes,
    )


def _results(
    recipe: Recipe,
    trainee: Trainee,
    teacher: Classifier,
    student: Classifier,
    held_out: Mapping[str, TransferSet],
    probes: Probes | None,
    data: Dataset | None,
    count: int | None,
    passes: Passes | None,
) -> ArmMetrics:
    agrees = {
        name: agreement(teacher, student, torch.cat([shard.images for shard in images]))
        for name, images in held_out.items()
    }
    return ArmMetrics(
        arm=trainee.arm.name,
        title=trainee.arm.title,
        count=generated_images(recipe.distill) if count is None else count,
        agreement=agrees,
        estimated_agreement=(
            None
            if trainee.arm.pictures or probes is None
            else estimate_agreement(teacher, student, probes).record()
        ),
        parameters=student.parameters_count,
        sha256=student.fingerprint(),
        passes=passes,
        **_accuracies(student, data),
    )


def _sizes(
    teacher: Classifier, tried: Sequence[Trainee], results: Mapping[str, ArmMetrics], costs: Sequence[Cost]
) -> tuple[SizeMetrics, ...]:
    """Return the results of several students of the main arm, with what each of them costs."""
    return tuple(
        SizeMetrics(
            **dict(results[one.name]),
            student=one.spec.student,
            network=describe_student(one.spec.student, teacher).title,
            cost=cost,
        )
        for one, cost in zip(tried, costs, strict=True)
    )


def _of_run(
    sets: Mapping[str, TransferSet],
    trained: Mapping[str, Passes | None],
    held_out: Mapping[str, TransferSet],
    measured: Passes,
) -> Passes | None:
    """Return the passes of a whole run; those for held-out images belong to the evaluation."""
    of_held_out = [one.manifest.passes for one in held_out.values()]
    return sum_known(
        [
            *(one.manifest.passes for one in sets.values()),
            *trained.values(),
            *(made and all_in("evaluation", made) for made in of_held_out),
            measured,
        ]
    )


def _count(arm: Arm, sets: Mapping[str, TransferSet]) -> int | None:
    """Return the number of images in an arm's set, without those that were dropped; None without a set."""
    if arm.spec is None:
        return None
    made = sets.get(arm.set_name)
    dropped = None if made is None else made.manifest.dropped
    return arm.spec.count - (dropped or 0)


def _of_arm(
    arm: Arm, sets: Mapping[str, TransferSet], pictures: Mapping[str, TransferSet], trained: Passes | None
) -> Passes | None:
    """Return the passes for all images that a student was trained on, and for the training."""
    own = [
        *([sets[arm.set_name]] if arm.set_name in sets else ()),
        *(pictures.values() if arm.pictures else ()),
    ]
    return sum_known([*(one.manifest.passes for one in own), trained])


def _accuracies(classifier: Classifier, data: Dataset | None) -> dict[str, Any]:
    if data is None:
        return {}
    test, by_class = accuracies(classifier, data.test)
    found: dict[str, Any] = {"test_accuracy": test, "test_accuracy_by_class": by_class}
    if len(data.validation):
        found["validation_accuracy"] = accuracy(classifier, data.validation)
    return found
