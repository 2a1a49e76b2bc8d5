"""What is measured at the end of a run."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from zskd.config.recipe import Recipe
from zskd.config.registry import CONTROLS
from zskd.core.progress import Progress
from zskd.data.datasets import Dataset
from zskd.distillation.students import generated_images, student_steps
from zskd.evaluation.agreement import estimate_agreement
from zskd.evaluation.inspection import count_multiply_adds
from zskd.evaluation.metrics import accuracy, accuracy_by_class, agreement
from zskd.evaluation.probes import make_probes
from zskd.models.classifier import Classifier
from zskd.run.arms import Arm
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import HELD_OUT, SetSpec
from zskd.transfer_set.dataset import TransferSet

NOT_MEASURED = "accuracy not measured: no data"


def held_out_sets(
    recipe: Recipe, teacher: Classifier, folder: Path, progress: Progress
) -> dict[str, TransferSet]:
    """Images that no student has seen: impressions and three kinds of noise."""
    impressions = SetSpec(
        method="zskd",
        count=recipe.held_out,
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
    students: dict[str, Classifier],
    held_out: dict[str, TransferSet],
    data: Dataset | None,
) -> dict[str, Any]:
    """Measure everything once. The test images are touched here and nowhere before."""
    rows, main, probes = [], arms[0].spec, make_probes(teacher)
    for arm in arms:
        student = students[arm.name]
        agrees = {
            name: asdict(agreement(teacher, student, torch.cat([shard.images for shard in images])))
            for name, images in held_out.items()
        }
        count = generated_images(recipe.distill) if arm.spec is None else arm.spec.count
        row = {"arm": arm.name, "title": arm.title, "count": count, "agreement": agrees}
        row["estimated_agreement"] = estimate_agreement(teacher, student, probes).record()
        rows.append(row | {"parameters": student.parameters_count} | _accuracies(student, data))
    return {
        "run": recipe.name,
        "preset": recipe.preset,
        "student_steps": student_steps(recipe.distill, None if main is None else main.count),
        "data": recipe.data.label,
        "accuracy": "measured" if data else NOT_MEASURED,
        "teacher": {
            "parameters": teacher.parameters_count,
            "multiply_adds": count_multiply_adds(teacher),
            "sha256": teacher.fingerprint(),
        }
        | _accuracies(teacher, data),
        "student": {"multiply_adds": count_multiply_adds(students[arms[0].name])},
        "arms": rows,
    }


def _accuracies(classifier: Classifier, data: Dataset | None) -> dict[str, Any]:
    if data is None:
        return {}
    found: dict[str, Any] = {
        "test_accuracy": asdict(accuracy(classifier, data.test)),
        "test_accuracy_by_class": accuracy_by_class(classifier, data.test),
    }
    if len(data.validation):
        found["validation_accuracy"] = asdict(accuracy(classifier, data.validation))
    return found


def set_facts(transfer_set: TransferSet) -> dict[str, Any]:
    """Return what the metrics tell of a transfer set."""
    manifest = transfer_set.manifest
    facts = ("count", "mean_kl", "mean_steps", "anchor_match", "missed", "dropped")
    return {key: manifest[key] for key in facts}
