"""A complete run: teacher, class similarity, transfer sets, students, measurements, figures, page.

Each stage writes a complete artefact, and is skipped where that artefact exists: the same command continues a
run that was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from zskd.config.identity import identity
from zskd.config.recipe import Recipe
from zskd.core.artefact import write_artefact
from zskd.core.device import use_threads
from zskd.core.files import folder_lock, sha256_json
from zskd.core.progress import Progress
from zskd.core.tensorboard import tracked
from zskd.core.timing import Clock
from zskd.core.types import Images
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.distillation.students import make_students
from zskd.evaluation.sanity import log_findings
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.run.arms import Arm, execution, plan_arms, student_spec
from zskd.run.budget import Budget
from zskd.run.folder import claim_folder, is_whole
from zskd.run.measure import held_out_sets, measure_run
from zskd.run.metrics import METRICS, RunMetrics, read_metrics
from zskd.run.page import draw_run
from zskd.run.similarity import SIMILARITY, has_similarity, write_similarity
from zskd.synthesis.build import build_transfer_set
from zskd.teacher.sources import make_teacher, open_sources
from zskd.transfer_set.dataset import TransferSet

_SHOWN = 64
"""Number of images of each set that TensorBoard shows."""


def run_recipe(
    recipe: Recipe, folder: Path, *, progress: Progress | None = None, command: str | None = None
) -> RunMetrics:
    """Run a recipe in a folder, or continue an interrupted run, and return its metrics.

    Args:
        recipe: everything that determines the run.
        folder: of this run alone. It gets recipe.yaml, teacher/, sets/, students/, figures/, metrics.json,
            README.md.
        progress: receives log lines and steps of every stage; None: no output.
        command: command line of the run, for its metrics; None from Python.

    Raises:
        ZskdError: the folder is in use or belongs to another recipe, or a stage fails.
    """
    progress = progress or Progress()
    with (
        folder_lock(folder),
        use_threads(recipe.threads),
        tracked(progress, recipe.tensorboard, "run") as tracker,
    ):
        sources = open_sources(recipe)
        fresh_student(describe_student(recipe.student, sources.model), sources.model, recipe.seed)
        claim_folder(recipe, folder, sources.hashes)
        # the metrics are the last file of a run: with them it is finished
        if (folder / METRICS).is_file() and is_whole(folder, progress):
            return read_metrics(folder / METRICS)
        arms = plan_arms(recipe, sources.data)
        if sources.card is not None:
            _check_teacher(sources.model, arms, progress)
        clock = Clock(folder / "timings.json")
        with clock("teacher"), tracked(progress, recipe.tensorboard, "teacher") as of_teacher:
            teacher = make_teacher(recipe, sources, folder / "teacher", of_teacher)
        if sources.card is None:
            _check_teacher(teacher, arms, progress)
        if has_similarity(teacher):
            write_similarity(teacher, folder / SIMILARITY)
        given, budget = recipe, None
        if recipe.budget is not None:
            spent = sum(seconds for stage, seconds in clock.seconds.items() if stage.startswith("set "))
            key = sha256_json(identity(recipe) | sources.hashes.to_json())
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
            if tracker.listens:
                tracker.picture(f"set/{arm.name}", _first_images(sets[arm.name]))
        training_sets = {arm.name: sets.get(arm.name) for arm in arms}
        if budget is not None:
            with clock("budget"):
                recipe = budget.fit_steps(recipe, training_sets)
        with clock("students"):
            students = make_students(
                teacher,
                dict.fromkeys(training_sets, student_spec(recipe)),
                training_sets,
                folder / "students",
                execution=execution(recipe),
                progress=progress,
            )
        held_out = held_out_sets(recipe, teacher, folder, progress)
        if (folder / METRICS).is_file():  # a stage was repaired; the test set is not used a second time
            metrics = read_metrics(folder / METRICS)
            _note_results(metrics, tracker)
            return metrics
        metrics = measure_run(
            recipe,
            teacher,
            arms,
            students,
            sets,
            held_out,
            sources,
            seconds=clock.seconds,
            recipe_sha256=sha256_json(identity(given)),
            command=command,
        )
        _note_results(metrics, tracker)
        draw_run(recipe, folder, metrics, teacher, sets, arms[0].spec)
        write_artefact(folder / METRICS, metrics)
    return metrics


def _check_teacher(teacher: Classifier, arms: Sequence[Arm], progress: Progress) -> None:
    """Refuse a teacher that the run's methods cannot use, and log what is wrong with it.

    Raises:
        ZskdError: it gives no finite answers, or not what a method reads.
    """
    log_findings(teacher, progress)
    with frozen(teacher):
        for arm in arms:
            if arm.spec is not None:
                arm.spec.own_method.check_teacher(teacher)


def _first_images(transfer_set: TransferSet) -> Images:
    return transfer_set.images(torch.arange(min(_SHOWN, len(transfer_set))))


def _note_results(metrics: RunMetrics, progress: Progress) -> None:
    """Report the final measurements, at the step after the students' last."""
    found = {"test_accuracy/teacher": metrics.teacher.test_accuracy}
    for arm in metrics.arms:
        found |= {f"agreement_{kind}/{arm.arm}": share for kind, share in arm.agreement.items()}
        found[f"test_accuracy/{arm.arm}"] = arm.test_accuracy
    for name, share in found.items():
        if share is not None:
            progress.note(name, share.percent, metrics.student_steps)
