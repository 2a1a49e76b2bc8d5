"""What a teacher allows: facts of the network, and warnings, before anything is made with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zskd.config.sizes import Share
from zskd.core.errors import ZskdError
from zskd.core.types import Concentration, Similarity
from zskd.evaluation.sanity import check_teacher
from zskd.models import counting
from zskd.models.batch_statistics import batch_norms
from zskd.models.chain import build_layers
from zskd.models.classifier import Classifier
from zskd.models.factory import describe_half
from zskd.models.head import Head
from zskd.models.modes import frozen
from zskd.models.narrow.copies import copy_teacher
from zskd.synthesis.similarity import class_similarity, concentration

NARROW = Share("narrow", 0.5)
"""The copy that is told of: half the multiply-adds."""


@dataclass(frozen=True)
class NarrowCopy:
    """A narrower copy of a teacher that a student could be."""

    how: str
    """What was cut, in words."""
    parameters: int
    multiply_adds: int
    """Of one image's forward pass."""


@dataclass(frozen=True)
class Inspection:
    """Facts of a teacher with K classes, and what they mean for zero-shot distillation."""

    output: str
    """What the network returns, in words."""
    head: str | None
    """Name of the last linear layer; None where no layer alone determines the output."""
    head_kind: str | None
    """What it is, in words."""
    features: int | None
    """Width D of the penultimate layer."""
    batch_norms: int
    """Number of batch-norm layers that keep running statistics."""
    parameters: int
    multiply_adds: int
    """Of one image's forward pass."""
    similarity: Similarity | None
    """Cosine of each two class vectors (K, K), −1 to 1; None without a head that gives one."""
    concentration: Concentration | None
    """The similarity with each row scaled to [0, 1] (K, K)."""
    half_parameters: int | None
    """Parameters of the student `half`; None when no such copy can be made."""
    narrow: NarrowCopy | None
    """The student `narrow:0.5`; None when no such copy can be made."""
    warnings: tuple[str, ...]
    """What will not work, and why; one line each."""


def inspect_teacher(teacher: Classifier) -> Inspection:
    """Return facts and warnings about a teacher.

    Args:
        teacher: run in evaluation mode; not changed.
    """
    with frozen(teacher):
        head = teacher.find_head()
    similarity, scaled, not_similar = _similarity(head)
    norms = len(batch_norms(teacher.module))
    multiply_adds = count_multiply_adds(teacher)
    narrow, why_not = _narrow(teacher)
    return Inspection(
        output=teacher.output,
        head=None if isinstance(head, ZskdError) else head.name,
        head_kind=None if isinstance(head, ZskdError) else head.how,
        features=None if isinstance(head, ZskdError) else head.weight.shape[1],
        batch_norms=norms,
        parameters=teacher.parameters_count,
        multiply_adds=multiply_adds,
        similarity=similarity,
        concentration=scaled,
        half_parameters=_half(teacher),
        narrow=narrow,
        warnings=(
            *why_not,
            *not_similar,
            *_warnings(teacher, norms),
            *(finding.text for finding in check_teacher(teacher)),
        ),
    )


def count_multiply_adds(classifier: Classifier) -> int:
    """Return the multiply-adds of one image's forward pass (convolutions and matrix products).

    They are counted for the original network in evaluation mode, even where a rewritten one runs.

    Args:
        classifier: not changed.
    """
    image = torch.zeros(1, *classifier.spec.shape, device=classifier.device)
    return counting.count_multiply_adds(classifier.module, classifier.normalise(image))


def _similarity(
    head: Head | ZskdError,
) -> tuple[Similarity | None, Concentration | None, tuple[str, ...]]:
    """Return class similarity and concentration, or why there are none."""
    try:
        if isinstance(head, ZskdError):
            raise head
        similarity = class_similarity(head.weight)
        return similarity, concentration(similarity), ()
    except ZskdError as error:
        return None, None, (str(error),)


def _half(teacher: Classifier) -> int | None:
    try:
        layers = describe_half(teacher.module).layers
        with torch.device("meta"):  # counted, not made
            half = build_layers(layers)
    except ZskdError:
        return None
    return sum(p.numel() for p in half.parameters())


def _narrow(teacher: Classifier) -> tuple[NarrowCopy | None, tuple[str, ...]]:
    """Return what the student `narrow:0.5` would be, or why there is none."""
    try:
        copy = copy_teacher(teacher, NARROW)
    except ZskdError as error:
        return None, (f"{error}: choose --student resnet8, or --student package.module:factory",)
    image = teacher.normalise(torch.zeros(1, *teacher.spec.shape, device=teacher.device))
    parameters = sum(p.numel() for p in copy.network.parameters())
    return NarrowCopy(copy.how, parameters, counting.count_multiply_adds(copy.network, image)), ()


def _warnings(teacher: Classifier, norms: int) -> list[str]:
    found = []
    if teacher.classes == 2:
        found.append(
            "two classes: min-max leaves each concentration at (1, 0), so that only "
            "--targets.concentration-floor gives mixed targets"
        )
    if not norms:
        found.append(
            "no batch-norm with running statistics: deepinversion, zskd_bn, adi and the generators dfq and "
            "conditional, which match them, cannot be used"
        )
    return found
