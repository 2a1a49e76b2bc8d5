"""The gallery of a page: some impressions, what was wanted of them, and what both networks answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zskd.core.memory import available_memory
from zskd.core.progress import Progress
from zskd.models.classifier import Classifier
from zskd.models.many_images import logits_in_parts
from zskd.models.modes import frozen
from zskd.report.pictures import data_uri
from zskd.synthesis.spec import SetSpec
from zskd.synthesis.trace import Frame, trace_impressions
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.shard import Shard

_PER_CLASS, _MOST = 6, 60
"""Impressions of each class, and in all."""
_BARS = 10
"""Classes of an impression with bars: all of a few, else those with the largest probabilities."""
_FRAMES = 6
_SHARE = 0.1
"""Of the free memory, for the steps of the traces."""
_BATCH = 64


@dataclass(frozen=True)
class Answer:
    """One class of an impression; probabilities are 0 to 1."""

    name: str
    target: float
    teacher: float
    student: float


@dataclass(frozen=True)
class Step:
    """One image of a filmstrip."""

    step: int
    kl: float
    picture: str


@dataclass(frozen=True)
class Impression:
    """One impression of the gallery."""

    number: int
    """Of the image in its set."""
    name: str
    """Of the class that it was made for."""
    anchor: int
    picture: str
    confidence: float
    """Largest probability of the teacher."""
    entropy: float
    """Of the teacher's probabilities, in nats."""
    kl: float
    """KL(target ‖ teacher), in nats, at the temperature of the synthesis."""
    steps: int
    answers: tuple[Answer, ...]
    film: tuple[Step, ...]
    """From the start image to the stored one; empty where the method takes no steps towards a target."""


def make_gallery(
    teacher: Classifier,
    student: Classifier,
    images: TransferSet,
    spec: SetSpec | None,
    progress: Progress | None = None,
) -> tuple[Impression, ...]:
    """Return the first optimised images of each class in the set's first shard; of a set without any, the
    first images.

    Args:
        teacher: of the set.
        student: that learned from it.
        images: the set.
        spec: as the set was made; None where its images cannot be made again.
        progress: receives the images that are made again, step by step.
    """
    shard = next(iter(images))
    rows = _chosen(shard, len(images.class_names))
    found = shard.select(torch.tensor(rows))
    of_teacher = found.logits.softmax(1)
    with frozen(student):
        of_student = logits_in_parts(student, found.images, _BATCH).softmax(1).cpu()
    films = {} if spec is None else _films(teacher, spec, rows, shard, progress or Progress())
    names = images.class_names
    return tuple(
        Impression(
            number=row,
            name=names[anchor],
            anchor=anchor,
            picture=data_uri(found.images[place]),
            confidence=float(of_teacher[place].max()),
            entropy=float(torch.special.entr(of_teacher[place]).sum()),
            kl=float(found.kl[place]),
            steps=int(found.steps[place]),
            answers=_answers(names, found.targets[place], of_teacher[place], of_student[place]),
            film=tuple(Step(one.step, one.kl, data_uri(one.image)) for one in films.get(row, ())),
        )
        for place, row in enumerate(rows)
        for anchor in (int(found.anchors[place]),)
    )


def optimised_or_all(shard: Shard) -> Tensor:
    """Return which images are shown (N,): the optimised ones, or all of a shard without any."""
    optimised = shard.steps > 0
    return optimised if bool(optimised.any()) else torch.ones_like(optimised)


def _chosen(shard: Shard, classes: int) -> list[int]:
    """Return rows of a shard: the first ones of each class, in turns."""
    fits = optimised_or_all(shard)
    by_class: dict[int, list[int]] = {k: [] for k in range(classes)}
    for row in fits.nonzero()[:, 0].tolist():
        of_class = by_class[int(shard.anchors[row])]
        if len(of_class) < _PER_CLASS:
            of_class.append(row)
    turns = (rows[turn] for turn in range(_PER_CLASS) for rows in by_class.values() if turn < len(rows))
    return list(turns)[:_MOST]


def _answers(names: Sequence[str], target: Tensor, teacher: Tensor, student: Tensor) -> tuple[Answer, ...]:
    """Return the classes with bars, in the order of the classes."""
    largest = torch.stack([target, teacher, student]).amax(0)
    shown = largest.topk(min(_BARS, len(names))).indices.sort().values.tolist()
    return tuple(Answer(names[k], float(target[k]), float(teacher[k]), float(student[k])) for k in shown)


def _films(
    teacher: Classifier, spec: SetSpec, rows: Sequence[int], shard: Shard, progress: Progress
) -> dict[int, list[Frame]]:
    """Trace as many of the impressions as the memory has room for, by row.

    Rows of the first shard are indices of the set only where none was dropped.
    """
    whole = len(shard) == len(spec.indices(0, teacher.classes))
    if not (spec.optimises and spec.own_method.by_objective and whole):
        return {}
    each = (spec.synthesis.steps + 1) * 4 * math.prod(teacher.spec.shape)
    room = int(_SHARE * available_memory(teacher.device) / each)
    wanted = [row for row in rows if int(shard.steps[row])][: max(1, room)]
    return trace_impressions(teacher, spec, wanted, frames=_FRAMES, progress=progress)
