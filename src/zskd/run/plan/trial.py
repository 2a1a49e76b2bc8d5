"""What each part of a run costs, measured in a folder that is deleted afterwards.

The parts are those of `zskd.run.pipeline`, made by the same functions: one shard of each set, some steps of
each student, and all measurements, with untrained students and sets whose images take a few steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from zskd.config.engines import open_engine
from zskd.config.recipe import Recipe
from zskd.core.device import use_threads
from zskd.core.engines.overhead import measure_overhead
from zskd.core.errors import ZskdError
from zskd.core.passes import all_in, counting
from zskd.core.progress import Progress, readable_seconds
from zskd.distillation.invariance import ASKED, settle_changes
from zskd.evaluation.inspection import count_multiply_adds
from zskd.run.arms import plan_arms, plan_students
from zskd.run.measure import held_out_specs, measure_run
from zskd.run.page import draw_run
from zskd.run.passes import within_passes
from zskd.run.plan.parts import NO_PASSES, Part, Parts
from zskd.run.plan.sets import Sampled, few_steps, sample_set
from zskd.run.plan.students import sample_students, untrained
from zskd.run.plan.teacher import sample_teacher
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.room import possible_workers, set_bytes
from zskd.synthesis.spec import SetSpec
from zskd.teacher.sources import Sources
from zskd.transfer_set.dataset import TransferSet

_NO_HASH = "0" * 64


def measure_parts(
    recipe: Recipe, sources: Sources, folder: Path, *, seconds: float, progress: Progress | None = None
) -> Parts:
    """Measure what the parts of a run cost on this machine.

    Args:
        recipe: of the run, without a budget of minutes.
        sources: data and teacher of the recipe; they are not changed.
        folder: for temporary files, of this trial alone.
        seconds: about the most that each measurement takes; there is one with one worker, and one with all.
        progress: receives a line for each part.

    Raises:
        ZskdError: the recipe has a budget of minutes, or a part fails, as it would in the run.
    """
    if recipe.budget is not None:
        raise ZskdError("--budget sets the minutes of a run, and a plan tells them: leave it out")
    with use_threads(recipe.threads):
        return _Trial(recipe, sources, folder, seconds, progress or Progress()).run()


class _Trial:
    """The parts of one run, measured in their order; each needs what those before it made."""

    def __init__(
        self, recipe: Recipe, sources: Sources, folder: Path, seconds: float, progress: Progress
    ) -> None:
        self._arms = plan_arms(recipe, sources.data)
        if recipe.passes is not None:
            recipe, _ = within_passes(recipe, sources.model, self._arms)
            self._arms = plan_arms(recipe, sources.data)
        self._recipe, self._sources = recipe, sources
        self._folder, self._seconds, self._progress = folder, seconds, progress
        self._engine = open_engine(recipe.engine)
        self._workers = possible_workers(sources.model, recipe.workers, self._engine)
        self._teacher, self._trained = sources.model, True
        self._multiply_adds = count_multiply_adds(sources.model)
        self._sets: dict[str, TransferSet] = {}
        self._traced: SetSpec | None = None
        """Of the main arm's set, as it is made."""
        self._trace_seconds = 0.0
        """Of the trace of the first impression, where it is too long to be measured."""

    def run(self) -> Parts:
        """Measure all parts."""
        self._progress.log("plan: the engine, with tasks that do nothing")
        overhead = measure_overhead(self._engine, self._workers)
        parts = [self._measure_teacher()]
        for arm in self._arms:
            if arm.spec is not None and arm.set_name not in self._sets:
                parts.append(self._measure_set(f"set {arm.name}", arm.set_name, arm.spec))
        parts.append(self._measure_students())
        held_out = held_out_specs(self._recipe, self._teacher)
        parts += [
            self._measure_set("held-out images", f"held_out/{name}", spec, count=spec.count)
            for name, spec in held_out.items()
        ]
        parts.append(self._measure_evaluation({name: self._sets[f"held_out/{name}"] for name in held_out}))
        return Parts(parts=parts, overhead=overhead, here=self._engine.here)

    def _measure_teacher(self) -> Part:
        """Make the teacher, or only time its training where that is long."""
        self._progress.log("plan: teacher")
        self._teacher, part = sample_teacher(self._recipe, self._sources, self._folder, seconds=self._seconds)
        self._trained = not part.at_most
        if part.at_most:
            self._progress.log(
                f"plan: the teacher is not trained here ({readable_seconds(part.serial)}), so that images "
                "are planned with all their steps: train it, and give --teacher.path"
            )
        return replace(part, at_most=False)

    def _measure_set(self, stage: str, name: str, spec: SetSpec, *, count: int | None = None) -> Part:
        """Make a shard of a set; and a set like it, with `count` images, for what follows."""
        self._progress.log(f"plan: {stage if count is None else name}")
        folder = self._folder / "sets" / name
        # only a trained teacher tells when images meet their targets
        known = self._trained or not (spec.optimises and spec.synthesis.tolerance)
        found = sample_set(
            self._teacher,
            spec,
            folder / "shards",
            seconds=self._seconds if known else 0.0,
            workers=self._workers,
            engine=self._engine,
        )
        like = few_steps(found.spec, self._teacher.classes, count=count)
        self._sets[name] = build_transfer_set(self._teacher, like, folder / "like", workers=1)
        if spec == self._arms[0].spec:
            self._traced = None if found.at_most else found.spec
            self._trace_seconds = _trace_seconds(found, self._teacher.classes) if found.at_most else 0.0
        return Part(
            stage=stage,
            serial=found.serial,
            alone=found.alone,
            busy=found.busy,
            passes=NO_PASSES.model_copy(update={"teacher_forward": found.passes}),
            multiply_adds=self._multiply_adds * found.passes,
            memory=found.memory,
            disk=set_bytes(self._teacher, found.spec, spec.count),
            at_most=found.at_most,
        )

    def _measure_students(self) -> Part:
        """Train each student for some seconds, with changes of images as the teacher answers them."""
        self._progress.log("plan: students")
        started = time.perf_counter()
        distill = settle_changes(
            self._teacher,
            self._sets.get(self._arms[0].set_name),
            self._recipe.distill,
            self._folder / ASKED,
            seed=self._recipe.seed,
            progress=Progress(),
        )
        spent = time.perf_counter() - started
        self._recipe = replace(self._recipe, distill=distill)
        part = sample_students(
            self._recipe,
            self._teacher,
            self._arms,
            self._sets,
            self._folder,
            seconds=self._seconds,
            workers=self._workers,
        )
        return replace(part, serial=part.serial + spent)

    def _measure_evaluation(self, held_out: Mapping[str, TransferSet]) -> Part:
        """Measure untrained students, and draw the figures."""
        self._progress.log("plan: evaluation")
        teacher, arms = self._teacher, self._arms
        planned = plan_students(self._recipe, arms)
        students = {one.name: untrained(one, teacher) for one in planned}
        sets = {arm.name: self._sets[arm.set_name] for arm in arms if arm.set_name in self._sets}
        started = time.perf_counter()
        with counting("evaluation", teacher=teacher) as tally:
            metrics = measure_run(
                self._recipe,
                teacher,
                arms,
                students,
                sets,
                held_out,
                self._sources,
                trained=dict.fromkeys(students),
                recipe_sha256=_NO_HASH,
            )
        draw_run(self._folder, metrics, teacher, sets, self._traced)
        passes = all_in("evaluation", tally.passes())["evaluation"]
        each = [count_multiply_adds(one) for one in students.values()]
        of_students = passes.student_forward * sum(each) // len(each)
        return Part(
            stage="evaluation",
            serial=self._trace_seconds + time.perf_counter() - started,
            passes=passes,
            multiply_adds=self._multiply_adds * passes.teacher + of_students,
        )


def _trace_seconds(found: Sampled, classes: int) -> float:
    """Return about how long the trace of an impression takes: a batch."""
    shard, config = found.alone[0], found.spec.synthesis
    optimised = (1 - config.noise_share) * len(found.spec.indices(0, classes))
    return shard * min(1.0, config.batch_size / max(1.0, optimised))
