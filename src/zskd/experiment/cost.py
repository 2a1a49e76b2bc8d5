"""How long the parts of an experiment may take here, measured on a few steps of each kind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from zskd.augment import augment
from zskd.classifier import Classifier
from zskd.config import Recipe
from zskd.experiment.layout import Place
from zskd.fitting import Batch, fit
from zskd.losses import LOSSES
from zskd.machine import use_threads
from zskd.synthesis import seconds_per_image
from zskd.teachers import describe_student, fresh_student
from zskd.transfer_set import MANIFEST, read_manifest

_STEPS = 4


@dataclass(frozen=True)
class Cost:
    """Seconds of one core."""

    images: float
    """For the set that the cell's own images are the beginning of."""
    student: float


def estimate(places: Sequence[Place], teacher: Classifier) -> list[Cost]:
    """Return what each cell may cost; cells of the same kind are measured once.

    Args:
        places: the cells.
        teacher: of the architecture of all, trained or not.
    """
    per_image: dict[Any, float] = {}
    per_step: dict[Any, float] = {}
    costs = []
    for place in places:
        images, recipe = place.images, place.cell.recipe
        if images is None:
            costs.append(Cost(0.0, 0.0))
            continue
        made = 0.0
        if images.spec is not None and not _made(place.set_folder):
            kind = (images.spec.method, images.spec.synthesis)
            if kind not in per_image:
                per_image[kind] = seconds_per_image(teacher, images.spec)
            made = per_image[kind] * images.count
        learning = (recipe.student, replace(recipe.distill, steps=_STEPS, epochs=None))
        if learning not in per_step:
            per_step[learning] = _seconds_per_step(recipe, teacher)
        costs.append(Cost(made, per_step[learning] * recipe.distill.total_steps(place.count)))
    return costs


def _made(folder: Path | None) -> bool:
    return folder is not None and (folder / MANIFEST).is_file() and bool(read_manifest(folder)["complete"])


def _seconds_per_step(recipe: Recipe, teacher: Classifier) -> float:
    """Train a student for a few steps on noise."""
    config = replace(recipe.distill, steps=_STEPS, epochs=None)
    student = fresh_student(describe_student(recipe.student, teacher), teacher, recipe.seed)
    student.rewrite = teacher.rewrite
    noise = torch.rand(config.batch_size, *teacher.spec.shape, generator=Generator().manual_seed(0))

    def prepare(rows: Tensor, numbers: Generator) -> Batch:
        images = augment(noise[rows], config.augment, teacher.spec.box, numbers)
        with torch.no_grad():
            return (images, teacher(images)) if config.teacher_weight else (images, torch.empty(0))

    def loss(batch: Batch) -> Tensor:
        said = student(batch[0])
        if config.teacher_weight:
            return LOSSES[config.loss](said, batch[1], config)
        return F.cross_entropy(said, said.detach().argmax(1))

    def timed() -> float:
        started = time.perf_counter()
        fit(student.module, prepare, loss, config, images=len(noise), seed=0, section="distill")
        return (time.perf_counter() - started) / _STEPS

    with use_threads(recipe.threads or 1):
        timed()  # the first steps of a process are slow
        return timed()
