"""How long the cells of an experiment take on this machine, estimated from a few steps of each kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from zskd.config.recipe import Recipe
from zskd.config.registry import LOSSES
from zskd.core.device import use_threads
from zskd.core.files import sha256_json
from zskd.core.timing import read_seconds
from zskd.data.transforms import augment
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.distillation.distill import distill
from zskd.distillation.losses import Loss
from zskd.experiment.layout import CellPaths
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.synthesis.build import seconds_per_image
from zskd.synthesis.sizes import fit_spec
from zskd.training.batches import Batch
from zskd.training.loop import fit
from zskd.transfer_set.manifest import MANIFEST, read_manifest

COSTS = "costs.json"
"""In the experiment's folder: seconds per image or step, by kind."""
_STEPS = 4


@dataclass(frozen=True)
class Cost:
    """Seconds of one core."""

    images: float
    """For the whole set, of which the cell uses the first images; 0 where it is complete."""
    student: float
    """For training the student."""


def estimate(layout: Sequence[CellPaths], teacher: Classifier, known: dict[str, float]) -> list[Cost]:
    """Return the estimated cost of each cell, in the same order.

    Args:
        layout: the cells.
        teacher: of the architecture of all teachers, trained or not.
        known: seconds per image or step by kind; a missing kind is measured and added.
    """
    return [_cost(paths, teacher, known) for paths in layout]


def read_known(out: Path) -> dict[str, float]:
    """Return the seconds per image or step that an experiment has measured so far, by kind.

    Raises:
        ZskdError: the file is damaged.
    """
    return read_seconds(out / COSTS, "the costs of an experiment")


def seconds_left(layout: Sequence[CellPaths], costs: dict[str, Cost], workers: int) -> float:
    """Return the seconds that some cells take; each set counts once.

    Args:
        layout: the cells.
        costs: by the names of the cells, in seconds of one core.
        workers: number of processes, at least 1.
    """
    sets = {paths.set_folder: costs[paths.cell.name].images for paths in layout}
    return (sum(sets.values()) + sum(costs[paths.cell.name].student for paths in layout)) / workers


def _cost(paths: CellPaths, teacher: Classifier, known: dict[str, float]) -> Cost:
    images, recipe = paths.images, paths.cell.recipe
    if paths.cell.arm.images == "none":
        return Cost(0.0, 0.0)
    made = 0.0
    if images is not None and images.spec is not None and not _made(paths.set_folder):
        spec = images.spec
        kind = sha256_json({"method": spec.method, "image of": asdict(spec.synthesis)})
        made = _known(known, kind, lambda: seconds_per_image(teacher, fit_spec(teacher, spec))) * images.count
    warm_up = 0 if recipe.distill.needs_set else recipe.distill.generator.warm_up
    step = _step(recipe, teacher, known, warm_up=0)
    # as many as the steps: each takes one of both
    begun = max(0.0, _step(recipe, teacher, known, warm_up=_STEPS) - step) * warm_up if warm_up else 0.0
    return Cost(made, begun + step * paths.cell.student_steps(paths.count))


def _step(recipe: Recipe, teacher: Classifier, known: dict[str, float], *, warm_up: int) -> float:
    """Return the seconds of a student's step, when its generator takes some steps before the first."""
    generator = replace(recipe.distill.generator, warm_up=warm_up)
    learning = replace(recipe.distill, steps=_STEPS, epochs=None, generator=generator)
    kind = sha256_json({"student": recipe.student, "step of": asdict(learning)})
    return _known(known, kind, lambda: _seconds_per_step(replace(recipe, distill=learning), teacher))


def _known(known: dict[str, float], kind: str, measure: Callable[[], float]) -> float:
    """Return the seconds of a kind, measured once; 0 where that fails: its cell then logs the error."""
    if kind not in known:
        try:
            known[kind] = measure()
        except Exception:  # a user's network can raise anything
            return 0.0
    return known[kind]


def _made(folder: Path | None) -> bool:
    return folder is not None and (folder / MANIFEST).is_file() and read_manifest(folder).complete


def _seconds_per_step(recipe: Recipe, teacher: Classifier) -> float:
    """Train a student for a few steps on noise, as many as its settings have."""
    config = recipe.distill
    architecture = describe_student(recipe.student, teacher)
    student = fresh_student(architecture, teacher, recipe.seed).to(teacher.device)
    student.rewrite = teacher.rewrite
    noise = torch.rand(config.batch_size, *teacher.spec.shape, generator=Generator().manual_seed(0))

    def prepare(rows: Tensor, numbers: Generator) -> Batch:
        images = augment(noise[rows].to(teacher.device), config.augment, teacher.spec.box, numbers)
        with torch.no_grad():
            return (images, teacher(images)) if config.teacher_weight else (images, torch.empty(0))

    def loss(batch: Batch) -> Tensor:
        logits = student(batch[0])
        if config.teacher_weight:
            loss: Loss = LOSSES.load(config.loss)
            return loss(logits, batch[1], config)
        return F.cross_entropy(logits, logits.detach().argmax(1))

    def timed() -> float:
        started = time.perf_counter()
        if config.needs_set:
            fit(student.module, prepare, loss, config, images=len(noise), seed=0, section="distill")
        else:
            distill(teacher, student.module, None, config)
        return (time.perf_counter() - started) / _STEPS

    with frozen(teacher), use_threads(recipe.threads or 1):
        timed()  # the first steps of a process are slow
        return timed()
