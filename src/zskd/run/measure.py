"""The measurements at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zskd.config.recipe import Recipe
from zskd.config.registry import CONTROLS
from zskd.core.device import processor
from zskd.core.progress import Progress
from zskd.core.versions import source_commit, versions
from zskd.data.datasets import Dataset
from zskd.distillation.students import generated_images
from zskd.evaluation.agreement import estimate_agreement
from zskd.evaluation.inspection import count_multiply_adds
from zskd.evaluation.metrics import accuracy, accuracy_by_class, agreement
from zskd.evaluation.probes import make_probes
from zskd.models.classifier import Classifier
from zskd.run.arms import Arm, execution, student_spec
from zskd.run.metrics import ArmMetrics, RunMetrics, SetFacts, StudentMetrics, TeacherMetrics
from zskd.run.similarity import has_similarity
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import HELD_OUT, SetSpec
from zskd.teacher.sources import Sources
from zskd.transfer_set.dataset import TransferSet

NOT_MEASURED = "accuracy not measured: no data"


def held_out_sets(
    recipe: Recipe, teacher: Classifier, folder: Path, progress: Progress
) -> dict[str, TransferSet]:
    """Return sets that no student was trained on, by kind: impressions and three kinds of noise.

    Args:
        recipe: of the run; `held_out_count` is the number of images of each kind.
        teacher: frozen.
        folder: of the run; complete sets in it are used.
        progress: receives steps.

    Raises:
        ZskdError: the teacher's logits are not finite, or the folder cannot be written.
    """
    impressions = SetSpec(
        # without class similarity, impressions of one class each
        method="zskd" if has_similarity(teacher) else "class_impressions",
        count=recipe.held_out_count,
        seed=recipe.seed,
        first_index=HELD_OUT,
        targets=replace(recipe.targets, order="interleaved"),
        synthesis=replace(recipe.synthesis, noise_share=0.0, carry_images=False, carry_moments=False),
    )
    specs = {"impressions": impressions}
    for name, control in CONTROLS.items():
        if control.method == "noise" and control.start is not None:
            start = replace(impressions.synthesis, start=control.start)
            specs[name] = replace(impressions, method=control.method, synthesis=start)
    return {
        name: build_transfer_set(
            teacher, spec, folder / "held_out" / name, workers=recipe.workers, progress=progress
        )
        for name, spec in specs.items()
    }


def measure_run(
    recipe: Recipe,
    teacher: Classifier,
    arms: list[Arm],
    students: Mapping[str, Classifier],
    sets: Mapping[str, TransferSet],
    held_out: Mapping[str, TransferSet],
    sources: Sources,
    *,
    seconds: Mapping[str, float],
    recipe_sha256: str,
    command: str | None = None,
) -> RunMetrics:
    """Measure everything once. The test images are used here only.

    Args:
        recipe: of the run, with the numbers of images and steps that a budget gave.
        teacher: frozen.
        arms: the method, then its controls.
        students: by the names of the arms.
        sets: their training sets, by the names of the arms; none where a generator makes all images.
        held_out: images that agreement is measured on, by kind.
        sources: with the real images, if there are any.
        seconds: that the stages took, by stage.
        recipe_sha256: of the recipe before its budget was applied.
        command: command line of the run; None from Python.

    Returns:
        Accuracy and agreement in percent with their intervals, counts, times and versions.

    Raises:
        ZskdError: the test images have another shape or more classes than the teacher.
    """
    rows, main, data = [], arms[0].spec, sources.data
    probes = make_probes(teacher, count=None if main is None else main.count)
    for arm in arms:
        student = students[arm.name]
        agrees = {
            name: agreement(teacher, student, torch.cat([shard.images for shard in images]))
            for name, images in held_out.items()
        }
        row = ArmMetrics(
            arm=arm.name,
            title=arm.title,
            count=generated_images(recipe.distill) if arm.spec is None else arm.spec.count,
            agreement=agrees,
            estimated_agreement=estimate_agreement(teacher, student, probes).record(),
            parameters=student.parameters_count,
            **_accuracies(student, data),
        )
        rows.append(row)
    of_teacher = TeacherMetrics(
        parameters=teacher.parameters_count,
        multiply_adds=count_multiply_adds(teacher),
        sha256=teacher.fingerprint(),
        **_accuracies(teacher, data),
    )
    return RunMetrics(
        run=recipe.name,
        preset=recipe.preset,
        student_steps=student_spec(recipe).steps(None if main is None else main.count),
        data=recipe.data.label,
        accuracy="measured" if data else NOT_MEASURED,
        teacher=of_teacher,
        student=StudentMetrics(multiply_adds=count_multiply_adds(students[arms[0].name])),
        arms=tuple(rows),
        sets={name: SetFacts.of(one) for name, one in sets.items()},
        seconds=dict(seconds),
        seed=recipe.seed,
        threads=execution(recipe).threads_of_each(len(arms)),
        versions=versions(),
        processor=processor(),
        commit=source_commit(),
        command=command,
        recipe_sha256=recipe_sha256,
        sources=sources.hashes,
    )


def _accuracies(classifier: Classifier, data: Dataset | None) -> dict[str, Any]:
    if data is None:
        return {}
    found: dict[str, Any] = {
        "test_accuracy": accuracy(classifier, data.test),
        "test_accuracy_by_class": accuracy_by_class(classifier, data.test),
    }
    if len(data.validation):
        found["validation_accuracy"] = accuracy(classifier, data.validation)
    return found
