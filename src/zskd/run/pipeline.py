"""A complete run: teacher, class similarity, transfer sets, students, measurements, figures, page.

Each stage writes a complete artefact, and is skipped where that artefact exists: the same command continues a
run that was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from zskd.config.engines import open_engine
from zskd.config.identity import identity, to_values
from zskd.config.recipe import Recipe
from zskd.core.artefact import write_artefact
from zskd.core.device import use_threads
from zskd.core.energy import POWERCAP, Meter
from zskd.core.files import folder_lock, sha256_json
from zskd.core.progress import Progress
from zskd.core.tensorboard import tracked
from zskd.core.types import Images
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.distillation.build import passes_of
from zskd.distillation.features.paired import pair_features
from zskd.distillation.invariance import ASKED, read_changes, settle_changes
from zskd.distillation.sources import check_generator
from zskd.distillation.students import make_students
from zskd.evaluation.sanity import log_findings
from zskd.evaluation.sizes import log_sizes
from zskd.models.checkpoint import read_card
from zskd.models.class_names import matched_by_order, unused_names
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.run.arms import Arm, execution, plan_arms, plan_students, trained_as
from zskd.run.budget import Budget
from zskd.run.folder import claim_folder, is_whole
from zskd.run.measure import held_out_sets, measure_run
from zskd.run.metrics import METRICS, RunMetrics, metrics_of
from zskd.run.page import draw_run, write_page
from zskd.run.passes import PassBudget, correct_steps, with_steps, within_passes
from zskd.run.pictures import check_pictures, picture_sets
from zskd.run.similarity import SIMILARITY, has_similarity, write_similarity
from zskd.run.stages import Stages
from zskd.synthesis.build import build_transfer_set
from zskd.teacher.sources import Sources, make_teacher, open_sources, with_code
from zskd.transfer_set.dataset import TransferSet

_SHOWN = 64
"""Number of images of each set that TensorBoard shows."""


def run_recipe(
    recipe: Recipe,
    folder: str | Path,
    *,
    sources: Sources | None = None,
    progress: Progress | None = None,
    command: str | None = None,
    powercap: str | Path = POWERCAP,
) -> RunMetrics:
    """Run a recipe in a folder, or continue an interrupted run, and return its metrics.

    Args:
        recipe: everything that determines the run.
        folder: of this run alone. It gets recipe.yaml, teacher/, sets/, students/, figures/, metrics.json,
            README.md.
        sources: data and teacher of the recipe, where they are open already.
        progress: receives log lines and steps of every stage; None: no output.
        command: command line of the run, for its metrics; None from Python.
        powercap: where the system shows the energy counters of its processors, if it does.

    Raises:
        ZskdError: the folder is in use or belongs to another recipe, or a stage fails.
    """
    folder, progress = Path(folder), progress or Progress()
    with (
        folder_lock(folder),
        use_threads(recipe.threads),
        tracked(progress, recipe.tensorboard, "run") as tracker,
    ):
        sources = sources or open_sources(recipe)
        for student in recipe.every_student:
            fresh = fresh_student(describe_student(student, sources.model), sources.model, recipe.seed)
            pair_features(sources.model, fresh, recipe.distill.features, seed=recipe.seed)
        check_generator(sources.model, recipe.distill)
        check_pictures(recipe, sources.model, folder)
        claim_folder(recipe, folder, with_code(sources, to_values(recipe)))
        # the metrics are the last file of a run: with them it is finished
        finished = metrics_of(folder)
        if finished is not None and is_whole(folder, progress):
            return finished
        run = _Run(recipe, folder, sources, progress, tracker, Meter(Path(powercap)))
        teacher = run.teacher()
        log_sizes(recipe.every_student, teacher, progress)  # which blocks go depends on the weights
        sets = run.sets(teacher)
        students = run.students(teacher, sets)
        with run.stages("evaluation", "measurements and figures") as of_stage:
            held_out = held_out_sets(run.recipe, teacher, folder, of_stage)
            if finished is not None:  # a stage was repaired; the test set is not used a second time
                for arm in finished.arms:
                    if arm.sha256 not in (None, students[arm.arm].fingerprint()):
                        progress.log(
                            f"note: students/{arm.arm} was made again with other threads or versions, and is "
                            f"not the one that was measured: delete {folder / METRICS} to measure anew"
                        )
                _note_results(finished, tracker)
                return finished
            metrics = measure_run(
                run.recipe,
                teacher,
                run.arms,
                students,
                sets,
                held_out,
                sources,
                pictures=run.pictures,
                trained={name: passes_of(folder / "students" / name) for name in students},
                threads=read_card(folder / "students" / run.arms[0].name).origin.threads,
                changes=read_changes(folder / ASKED),
                recipe_sha256=sha256_json(identity(recipe)),
                command=command,
            )
            _note_results(metrics, tracker)
            draw_run(folder, metrics, teacher, sets, run.arms[0].spec, of_stage)
        metrics = metrics.model_copy(update=run.stages.spent())
        write_page(run.recipe, folder, metrics, teacher, sets, run.arms[0].spec)
        write_artefact(folder / METRICS, metrics)
    return metrics


class _Run:
    """The stages of a run, in their order; a budget changes its recipe as soon as it is known what fits."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        sources: Sources,
        progress: Progress,
        tracker: Progress,
        meter: Meter,
    ) -> None:
        """Plan the arms.

        Args:
            recipe: as given.
            folder: of the run.
            sources: data and teacher.
            progress: receives log lines and steps.
            tracker: receives pictures.
            meter: of the energy.

        Raises:
            ZskdError: the size of the sets is not given.
        """
        self.recipe = recipe
        self.arms = plan_arms(recipe, sources.data)
        sets = {arm.set_name for arm in self.arms if arm.spec is not None}
        total = len(sets) + len(("teacher", "students", "evaluation"))
        self.stages = Stages(total, folder, progress, meter)
        self._folder, self._sources, self._progress, self._tracker = folder, sources, progress, tracker
        self.pictures: dict[str, TransferSet] = {}
        """Of the user's, by their options; known with the students."""
        self._budget: Budget | None = None
        self._passes: PassBudget | None = None
        if recipe.passes is not None:
            self.recipe, self._passes = within_passes(recipe, sources.model, self.arms)
            progress.log(f"passes: {self._passes.words}")
            self.arms = plan_arms(self.recipe, sources.data)

    def teacher(self) -> Classifier:
        """Return the teacher, checked, and write its class similarity.

        Raises:
            ZskdError: it cannot be made, or the methods of the run cannot use it.
        """
        recipe, sources = self.recipe, self._sources
        if sources.card is not None:
            _check_teacher(sources.model, self.arms, self._progress)
        with (
            use_threads(recipe.threads),  # a resumed training may change the number
            self.stages("teacher", "teacher") as of_stage,
            tracked(of_stage, recipe.tensorboard, "teacher") as of_teacher,
        ):
            teacher = make_teacher(recipe, sources, self._folder / "teacher", of_teacher)
        if sources.card is None:
            _check_teacher(teacher, self.arms, self._progress)
        elif sources.data is not None:
            self._note_classes(teacher.class_names, sources.data.class_names)
        if has_similarity(teacher):
            write_similarity(teacher, self._folder / SIMILARITY, self._progress)
        return teacher

    def _note_classes(self, own: tuple[str, ...], of_data: tuple[str, ...]) -> None:
        """Tell what the names of the teacher's classes and of those of the data leave open."""
        if names := unused_names(own, of_data):
            self._progress.log(
                "note: the teacher's classes have no names, which reports, exports and checks would use: if "
                f"the data has the same in the same order, give --teacher.class-names {names}"
            )
        if by_order := matched_by_order(own, of_data):
            self._progress.log(f"note: {by_order}")

    def sets(self, teacher: Classifier) -> dict[str, TransferSet]:
        """Return the transfer sets by the names of their arms, as large as the budget allows.

        Raises:
            ZskdError: a set cannot be made.
        """
        if self.recipe.budget is not None:
            self._begin_budget(teacher)
        sets: dict[str, TransferSet] = {}
        for arm in self.arms:
            if arm.spec is None or arm.set_name in sets:
                continue
            with self.stages(f"set {arm.name}", f"images of {arm.title}") as of_stage:
                sets[arm.name] = build_transfer_set(
                    teacher,
                    arm.spec,
                    self._folder / "sets" / arm.name,
                    workers=self.recipe.workers,
                    engine=open_engine(self.recipe.engine),
                    progress=of_stage,
                )
            if self._tracker.listens:
                self._tracker.picture(f"set/{arm.name}", _first_images(sets[arm.name]))
        return sets

    def _begin_budget(self, teacher: Classifier) -> None:
        """Start the clock of the budget, and take as many images as it allows."""
        timed = self.stages.clock.seconds
        spent = sum(seconds for stage, seconds in timed.items() if stage.startswith("set "))
        key = sha256_json(identity(self.recipe) | self._sources.hashes.to_json())
        self._budget = Budget(
            self.recipe, teacher, self._folder, key=key, spent=spent, progress=self._progress
        )
        specs = {self._folder / "sets" / arm.set_name: arm.spec for arm in self.arms if arm.spec is not None}
        if specs:
            with self.stages.clock("budget"):
                self.recipe = self._budget.fit_sets(specs)
            self.arms = plan_arms(self.recipe, self._sources.data)

    def students(self, teacher: Classifier, sets: Mapping[str, TransferSet]) -> dict[str, Classifier]:
        """Return all students by the names of their folders, trained for as many steps as the budget allows.

        Raises:
            ZskdError: a student cannot be trained, or the budget is too small.
        """
        with self.stages("students", "students") as of_stage:
            # asked once, on the set of the main arm, so that all arms are changed alike
            distill = settle_changes(
                teacher,
                sets.get(self.arms[0].set_name),
                self.recipe.distill,
                self._folder / ASKED,
                seed=self.recipe.seed,
                progress=of_stage,
            )
            self.recipe = replace(self.recipe, distill=distill)
            planned = plan_students(self.recipe, self.arms)
            images = {one.name: sets.get(one.arm.set_name) for one in planned}
            pictures = self.pictures = picture_sets(self.recipe, teacher, self._folder, of_stage)
            if self._budget is not None:
                specs = {one.name: one.spec for one in planned}
                self.recipe = self._budget.fit_steps(self.recipe, specs, images, pictures)
            if self._passes is not None:
                trainings = [trained_as(one) for one in planned]
                made = {**sets, **pictures}
                self.recipe = with_steps(self.recipe, correct_steps(self._passes, made, trainings, of_stage))
            planned = plan_students(self.recipe, self.arms)
            return make_students(
                teacher,
                {one.name: one.spec for one in planned},
                images,
                self._folder / "students",
                execution=execution(self.recipe),
                pictures=pictures,
                progress=of_stage,
            )


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
    arms = [(arm.arm, arm) for arm in metrics.arms]
    for name, one in [*arms, *((size.student, size) for size in metrics.sizes)]:
        found |= {f"agreement_{kind}/{name}": share for kind, share in one.agreement.items()}
        found[f"test_accuracy/{name}"] = one.test_accuracy
    for name, share in found.items():
        if share is not None:
            progress.note(name, share.percent, metrics.student_steps)
