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
from zskd.transfer_set.first import first_of_classes

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
    """One class of an impression; probabilities are 0 to 1, at the temperature of the synthesis."""

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
    """Largest probability of the teacher, at temperature 1."""
    entropy: float
    """Of the same probabilities, in nats."""
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
    """Return the first optimised images of each class; of a set without any, the first images.

    Args:
        teacher: of the set.
        student: that learned from it.
        images: the set.
        spec: as the set was made; None where its images cannot be made again.
        progress: receives the images that are made again, step by step.
    """
    rows, names = first_of_classes(images, _PER_CLASS, most=_MOST), images.class_names
    pictures, targets = images.images(rows), images.column("targets")[rows]
    logits, divergences, steps = (images.column(name)[rows] for name in ("logits", "kl", "steps"))
    surely = logits.softmax(1)
    tau = _temperature(images)
    of_teacher = (logits / tau).softmax(1)
    with frozen(student):
        of_student = (logits_in_parts(student, pictures, _BATCH).cpu() / tau).softmax(1)
    optimised = rows[steps > 0].tolist()
    films = {} if spec is None else _films(teacher, spec, optimised, images, progress or Progress())
    return tuple(
        Impression(
            number=row,
            name=names[anchor],
            anchor=anchor,
            picture=data_uri(pictures[place]),
            confidence=float(surely[place].max()),
            entropy=float(torch.special.entr(surely[place]).sum()),
            kl=float(divergences[place]),
            steps=int(steps[place]),
            answers=_answers(names, targets[place], of_teacher[place], of_student[place]),
            film=tuple(Step(one.step, one.kl, data_uri(one.image)) for one in films.get(row, ())),
        )
        for place, (row, anchor) in enumerate(zip(rows.tolist(), images.labels[rows].tolist(), strict=True))
    )


def _temperature(images: TransferSet) -> float:
    """Return τ of a set's targets and KL; 1 where it was not made by a synthesis."""
    synthesis = images.manifest.spec.get("synthesis")
    tau = synthesis.get("tau") if isinstance(synthesis, dict) else None
    return float(tau) if isinstance(tau, int | float) else 1.0


def _answers(names: Sequence[str], target: Tensor, teacher: Tensor, student: Tensor) -> tuple[Answer, ...]:
    """Return the classes with bars, in the order of the classes."""
    largest = torch.stack([target, teacher, student]).amax(0)
    shown = largest.topk(min(_BARS, len(names))).indices.sort().values.tolist()
    return tuple(Answer(names[k], float(target[k]), float(teacher[k]), float(student[k])) for k in shown)


def _films(
    teacher: Classifier, spec: SetSpec, rows: Sequence[int], images: TransferSet, progress: Progress
) -> dict[int, list[Frame]]:
    """Trace as many of the impressions of the first shard as the memory has room for, by row.

    Its rows are indices of the set only where none was dropped.
    """
    first = images.manifest.shards[0].count
    if not spec.has_traces or first != len(spec.indices(0, teacher.classes)):
        return {}
    each = (spec.synthesis.steps + 1) * 4 * math.prod(teacher.spec.shape)
    room = int(_SHARE * available_memory(teacher.device) / each)
    wanted = [row for row in rows if row < first][: max(1, room)]
    return trace_impressions(teacher, spec, wanted, frames=_FRAMES, progress=progress)
