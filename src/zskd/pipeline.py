"""A run from end to end: teacher, similarity, transfer sets, students, measurements, pictures, page.

Every stage writes a whole artefact and is skipped when that artefact is there, so that the same command
goes on wherever a run was killed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from zskd.budget import BUDGET, Budget
from zskd.classifier import Classifier
from zskd.clock import Clock
from zskd.config import Recipe
from zskd.data import Dataset, load_data
from zskd.errors import ZskdError
from zskd.estimate import estimate_agreement
from zskd.evaluate import accuracy, accuracy_by_class, agreement
from zskd.files import (
    first_difference,
    folder_lock,
    read_json,
    sha256_json,
    write_json,
    write_text,
)
from zskd.inspection import count_multiply_adds
from zskd.machine import processor, use_threads
from zskd.methods import CONTROLS
from zskd.probes import make_probes
from zskd.progress import Progress
from zskd.recipes import identity, load_recipe, to_yaml
from zskd.run_page import draw_run
from zskd.similarity import class_similarity, concentration
from zskd.students import generated_images, make_students, student_steps, threads_of_each
from zskd.synthesis import HELD_OUT, SetSpec, build_transfer_set
from zskd.teachers import describe_student, fresh_student, make_teacher, open_sources
from zskd.tracking import tracked
from zskd.transfer_set import TransferSet
from zskd.types import Images
from zskd.verification import verify_folder
from zskd.versions import source_commit, versions

METRICS = "metrics.json"
NOT_MEASURED = "accuracy not measured: no data"
_SHOWN = 64
"""So many images of each set are shown while the run goes on."""


@dataclass(frozen=True)
class Arm:
    """One row of the run's table."""

    name: str
    title: str
    spec: SetSpec | None
    """Of its transfer set; None where a generator makes all images."""


def run_recipe(
    recipe: Recipe, folder: Path, *, progress: Progress | None = None, command: str | None = None
) -> dict[str, Any]:
    """Run a recipe in a folder, or go on with it, and return its metrics.

    Args:
        recipe: everything that determines the run.
        folder: of this run alone: recipe.yaml, teacher/, sets/, students/, figures/, metrics.json,
            README.md.
        progress: told of every stage.
        command: how the run was started, for its record.

    Raises:
        ZskdError: the folder is in use or belongs to another configuration, or a stage fails.
    """
    progress = progress or Progress()
    with (
        folder_lock(folder),
        use_threads(recipe.threads),
        tracked(progress, recipe.tensorboard, "run") as told,
    ):
        sources = open_sources(recipe)
        fresh_student(describe_student(recipe.student, sources.model), sources.model, recipe.seed)
        _claim(recipe, folder, sources.hashes)
        # the metrics are the last file of a run: it is finished
        if (folder / METRICS).is_file() and _is_whole(folder, progress):
            return read_json(folder / METRICS, "the metrics of a run")
        arms = plan_arms(recipe, sources.data)
        clock = Clock(folder / "timings.json")
        with clock("teacher"), tracked(progress, recipe.tensorboard, "teacher") as of_teacher:
            teacher = make_teacher(recipe, sources, folder / "teacher", of_teacher)
        write_similarity(teacher, folder / "similarity.json")
        asked, budget = recipe, None
        if recipe.budget is not None:
            spent = sum(seconds for stage, seconds in clock.seconds.items() if stage.startswith("set "))
            key = sha256_json(identity(recipe) | sources.hashes)
            budget = Budget(recipe, teacher, folder, key=key, spent=spent, progress=progress)
            specs = {folder / "sets" / arm.name: arm.spec for arm in arms if arm.spec is not None}
            if specs:
                with clock("budget"):
                    recipe = replace(recipe, count=budget.fit_count(specs), rate=None)
                arms = plan_arms(recipe, sources.data)
        sets: dict[str, TransferSet] = {}
        for arm in arms:
            if arm.spec is None:
                continue
            with clock(f"set {arm.name}"):
                sets[arm.name] = build_transfer_set(
                    teacher,
                    arm.spec,
                    folder / "sets" / arm.name,
                    workers=recipe.workers,
                    progress=progress,
                )
            if told.listens:
                told.picture(f"set/{arm.name}", _first_images(sets[arm.name]))
        learned_from = {arm.name: sets.get(arm.name) for arm in arms}
        if budget is not None:
            with clock("budget"):
                recipe = budget.fit_steps(recipe, learned_from)
        with clock("students"):
            students = make_students(recipe, teacher, learned_from, folder / "students", progress)
        held_out = _held_out(recipe, teacher, folder, progress)
        if (folder / METRICS).is_file():  # something was mended; the test set is not touched again
            metrics = read_json(folder / METRICS, "the metrics of a run")
            _note_results(metrics, told)
            return metrics
        metrics = _measure(recipe, teacher, arms, students, held_out, sources.data)
        metrics |= {
            "sets": {name: _set_facts(one) for name, one in sets.items()},
            "seconds": clock.seconds,
            "seed": recipe.seed,
            "threads": threads_of_each(recipe, len(arms)),
            "versions": versions(),
            "processor": processor(),
            "commit": source_commit(),
            "command": command,
            "recipe_sha256": sha256_json(identity(asked)),
            "sources": sources.hashes,
        }
        _note_results(metrics, told)
        draw_run(recipe, folder, metrics, teacher, sets, arms[0].spec)
        write_json(folder / METRICS, metrics)
    return metrics


def plan_arms(recipe: Recipe, data: Dataset | None) -> list[Arm]:
    """Return the main arm and its controls, all of the same size.

    Raises:
        ZskdError: that size is not given.
    """
    rule = recipe.distill.game.rule
    if recipe.distill.needs_set:
        main = Arm(recipe.method, f"{recipe.method.upper()} ({recipe.preset})", _main_set(recipe, data))
    else:
        main = Arm(rule, f"{rule.upper()} ({recipe.preset})", None)
    controls = [_control(name, _main_set(recipe, data)) for name in recipe.controls]
    # a control that is run as the main arm is not run twice
    return [main, *(control for control in controls if control.spec != main.spec)]


def _main_set(recipe: Recipe, data: Dataset | None) -> SetSpec:
    return SetSpec(
        method=recipe.method,
        count=set_size(recipe, data),
        seed=recipe.seed,
        targets=recipe.targets,
        synthesis=recipe.synthesis,
    )


def _control(name: str, main: SetSpec) -> Arm:
    control = CONTROLS[name]
    synthesis = replace(main.synthesis, start=control.start or main.synthesis.start)
    return Arm(name, control.title, replace(main, method=control.method, synthesis=synthesis))


def _claim(recipe: Recipe, folder: Path, hashes: dict[str, str]) -> None:
    """Write recipe and sources into a new folder; refuse one that holds something of another run.

    A folder where nothing has been made yet can be claimed again, so that a mistake in the command can be
    mended.
    """
    path = folder / "recipe.yaml"
    if not (folder / "teacher").exists():
        write_text(path, to_yaml(recipe))
        write_json(folder / "sources.json", hashes)
        return
    try:
        begun = load_recipe(path)
    except ZskdError as error:
        raise ZskdError(f"{path} is damaged ({error}): choose another folder, or delete this one") from error
    made_from = read_json(folder / "sources.json", "the hashes of a run's sources")
    other_budget = begun.budget != recipe.budget and not _is_budget_spent(folder)
    if other_budget:
        begun = replace(begun, budget=recipe.budget)
    there, now = identity(begun) | made_from, identity(recipe) | hashes
    if there != now:
        what = first_difference(there, now, "")
        raise ZskdError(
            f"{folder} was made with another {what}: choose another folder with --out, or delete this one"
        )
    if other_budget:
        write_text(path, to_yaml(begun))


def _is_budget_spent(folder: Path) -> bool:
    """Whether a run has made anything that its budget has a part in; one that was refused leaves nothing."""
    return any(
        [(folder / BUDGET).exists(), (folder / "students").exists(), *folder.glob("sets/*/manifest.json")]
    )


def _is_whole(folder: Path, progress: Progress) -> bool:
    try:
        verify_folder(folder)
    except ZskdError as error:
        progress.say(f"{error}. It is made again.")
        return False
    return True


def set_size(recipe: Recipe, data: Dataset | None) -> int:
    """Return the number of images in each transfer set; data are loaded where a rate needs them."""
    if recipe.count is not None or recipe.data.name == "none":
        return recipe.size(None)
    return recipe.size((data or load_data(recipe.data, recipe.teacher.shape)).train_size)


def write_similarity(teacher: Classifier, path: Path) -> None:
    """Write class names, class similarity and concentration as JSON."""
    similarity = class_similarity(teacher.head_weight)
    write_json(
        path,
        {
            "class_names": list(teacher.class_names),
            "similarity": similarity.tolist(),
            "concentration": concentration(similarity).tolist(),
        },
    )


def _held_out(
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
    for name in ("noise_smooth", "noise_shapes", "noise_white"):
        start = CONTROLS[name].start
        assert start is not None
        specs[name] = replace(
            impressions, method="noise", synthesis=replace(impressions.synthesis, start=start)
        )
    return {
        name: build_transfer_set(
            teacher, spec, folder / "held_out" / name, workers=recipe.workers, progress=progress
        )
        for name, spec in specs.items()
    }


def _measure(
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
            name: asdict(agreement(student, teacher, torch.cat([shard.images for shard in images])))
            for name, images in held_out.items()
        }
        count = generated_images(recipe.distill) if arm.spec is None else arm.spec.count
        row = {"arm": arm.name, "title": arm.title, "count": count, "agreement": agrees}
        row["estimated_agreement"] = estimate_agreement(student, teacher, probes).record()
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


def _first_images(transfer_set: TransferSet) -> Images:
    return transfer_set.images(torch.arange(min(_SHOWN, len(transfer_set))))


def _note_results(metrics: dict[str, Any], progress: Progress) -> None:
    """Note what was measured in the end, at the step behind the students' last."""
    step = metrics["student_steps"]
    for row in ({"arm": "teacher", "agreement": {}} | metrics["teacher"], *metrics["arms"]):
        shares = {f"agreement_{kind}": share for kind, share in row["agreement"].items()}
        if "test_accuracy" in row:
            shares["test_accuracy"] = row["test_accuracy"]
        for name, share in shares.items():
            progress.note(f"{name}/{row['arm']}", share["percent"], step)


def _set_facts(transfer_set: TransferSet) -> dict[str, Any]:
    manifest = transfer_set.manifest
    facts = ("count", "mean_kl", "mean_steps", "anchor_match", "missed", "dropped")
    return {key: manifest[key] for key in facts}
