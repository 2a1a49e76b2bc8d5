"""What student, teacher and transfer set show of the images that the teacher was trained on.

Each test gives every image a score, and tells how well the score separates members, which the teacher was
trained on, from others. A test that finds nothing does not prove that nothing leaks: stronger ones train many
networks (Carlini et al. 2022), also of students (Jagielski et al. 2023, arXiv:2303.03446).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zskd.core.artefact import Artefact, Fraction
from zskd.core.errors import ZskdError
from zskd.core.types import Labels, Logits, OfOneBatch
from zskd.evaluation.membership import MembershipTest, Of, separation, tests_of_networks
from zskd.evaluation.metrics import check_alike, checked_images, checked_labels, logits_of
from zskd.evaluation.nearest import PIXELS, NearestImpressions
from zskd.evaluation.statistics import holm
from zskd.models.classifier import Classifier
from zskd.transfer_set.dataset import TransferSet

FEWEST = 20
"""Images of each group."""
Network = Callable[[OfOneBatch], Logits]
"""Returns the logits on the CPU of images in [0, 1]."""
_BATCH = 500
_TELLS: dict[Of, str] = {
    "teacher": "Outputs of the teacher differ between members and others ({}).",
    "student": "Outputs of the student differ between members and others ({}).",
    "impressions": "Impressions are nearer to members than to others: they repeat something of them ({}).",
    "reference": "Losses of the reference differ between members and others ({}): the folders differ in more "
    "than membership, or it was trained on members. So losses show nothing.",
}
_TELLS_NOT: dict[Of, str] = {
    "teacher": "No difference between members and others is found in outputs of the teacher ({}). Stronger "
    "tests may find one.",
    "student": "No difference between members and others is found in outputs of the student ({}). Stronger "
    "tests may find one.",
    "impressions": "Impressions are not nearer to members than to others ({}).",
    "reference": "",
}
_NO_REFERENCE = (
    "This is a leak if the folders differ in nothing but membership: a network that was trained on none of "
    "these images would show it (--reference)."
)
_REVERSED = (
    "Where the AUC is below 0.5 by more than chance ({}), members and others differ in more than membership: "
    "take both from one source."
)


class Audit(Artefact):
    """The tests of membership of a student and of its teacher; shares are percentages with 95 % intervals."""

    labels: Literal["given", "teacher", "student"]
    """The label of an image: given, or the class that this network predicts."""
    tests: tuple[MembershipTest, ...]
    nearest: tuple[Fraction, Fraction] | None
    """Smallest distance in pixels of a member to an impression, and of another image; None without a set."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the numbers mean, in words."""
        differ = any(one.of == "reference" and one.tells for one in self.tests)
        shown = [one for one in self.tests if not (differ and one.by == "loss" and one.of != "reference")]
        said = [_said(of, [one for one in shown if one.of == of]) for of in _TELLS]
        reference = any(one.of == "reference" for one in self.tests)
        if not reference and any(one.tells for one in self.tests):
            said.append(_NO_REFERENCE)
        if reversed_ := [f"{one.of}, {one.by}" for one in shown if one.is_reversed]:
            said.append(_REVERSED.format("; ".join(reversed_)))
        return tuple(filter(None, said))


def _said(of: Of, tests: list[MembershipTest]) -> str:
    """Return what the tests of a network or of the impressions mean; nothing where there are none, or
    all are reversed."""
    if not tests:
        return ""
    best = min(tests, key=lambda one: (one.is_reversed, one.p, -one.area.area))
    return "" if best.is_reversed else (_TELLS if best.tells else _TELLS_NOT)[of].format(best)


@dataclass(frozen=True)
class Shown:
    """The outputs for the images of one group, members or others."""

    logits: Mapping[str, Logits]
    """(N, K) by network."""
    distances: Mapping[str, Tensor]
    """To the nearest impression (N,), by measure; none without a transfer set."""
    labels: Labels | None = None
    """Class of each image (N,), 0 to K − 1; None: not known."""


def show(
    parts: Iterable[OfOneBatch], networks: Mapping[str, Network], impressions: NearestImpressions | None
) -> Shown:
    """Show images to all networks, a few at a time.

    Args:
        parts: images (n, C, H, W) in [0, 1].
        networks: by their names of `Of`.
        impressions: to measure distances to; None: none.
    """
    logits: dict[str, list[Tensor]] = {name: [] for name in networks}
    distances: dict[str, list[Tensor]] = {}
    for images in parts:
        for name, network in networks.items():
            logits[name].append(network(images))
        for measure, found in (impressions.distances(images) if impressions else {}).items():
            distances.setdefault(measure, []).append(found)
    return Shown(_joined(logits), _joined(distances))


def audit_student(
    teacher: Classifier | None,
    student: Classifier,
    members: OfOneBatch,
    others: OfOneBatch,
    labels: tuple[Tensor, Tensor] | None = None,
    *,
    reference: Classifier | None = None,
    transfer_set: TransferSet | None = None,
) -> Audit:
    """Test whether student, teacher and transfer set show which images the teacher was trained on.

    Args:
        teacher: run in evaluation mode; not changed. None: only the student is tested.
        student: likewise, with the teacher's input shape and classes.
        members: images that the teacher was trained on (N, C, H, W), in [0, 1]; at least 20.
        others: images of the same source that it was not trained on (M, C, H, W), likewise.
        labels: classes of members (N,) and others (M,), 0 to K − 1; None: those that the teacher predicts, or
            the student without a teacher.
        reference: a network of the same classes that was trained on none of these images, but on such.
        transfer_set: of the student.

    Raises:
        ZskdError: a network has other classes or another input shape than the student, images or labels do
            not fit, there are too few images, or an output is not finite.
    """
    networks = {"teacher": teacher, "student": student, "reference": reference}
    given = {name: one for name, one in networks.items() if one is not None}
    for name, one in given.items():
        check_alike(name, (one.class_names, one.spec.shape), (student.class_names, student.spec.shape))
    asked: dict[str, Network] = {name: partial(logits_of, one) for name, one in given.items()}
    members, others = (checked_images(images, student.spec) for images in (members, others))
    _check_counts(len(members), len(others))
    near = None if transfer_set is None else NearestImpressions(transfer_set, teacher, student.spec.shape)
    of_members, of_others = (show(torch.split(images, _BATCH), asked, near) for images in (members, others))
    if labels is not None:
        of_members, of_others = (
            replace(shown, labels=checked_labels(own, len(images), student.classes))
            for shown, own, images in zip((of_members, of_others), labels, (members, others), strict=True)
        )
    return audit_shown(of_members, of_others)


def audit_shown(members: Shown, others: Shown) -> Audit:
    """Compare the outputs for both groups, as `audit_student` does.

    Args:
        members: with outputs of a student, and labels and other networks as `others` have them.
        others: likewise. The labels of both are used, or none.

    Raises:
        ZskdError: there are too few images, or an output is not finite.
    """
    counts = [len(one.logits.get("student", ())) for one in (members, others)]
    _check_counts(*counts)
    logits = {name: torch.cat([one, others.logits[name]]) for name, one in members.logits.items()}
    for name, values in logits.items():
        if not bool(torch.isfinite(values).all()):
            raise ZskdError(f"an output of the {name} is not finite: give another {name}, or other images")
    source: Literal["teacher", "student"] = "teacher" if "teacher" in logits else "student"
    given = [one.labels for one in (members, others) if one.labels is not None]
    classes = torch.cat(given) if len(given) == 2 else logits[source].argmax(1)
    member = np.arange(sum(counts)) < counts[0]
    tests = tests_of_networks(logits, classes, member)
    for measure, values in members.distances.items():
        scores = -torch.cat([values, others.distances[measure]]).double().numpy()
        tests.append(separation("impressions", measure, scores, member))
    near = [min(1.0, float(one.distances[PIXELS].min())) for one in (members, others) if one.distances]
    return Audit(
        labels="given" if len(given) == 2 else source,
        tests=tuple(
            one.model_copy(update={"p": p})
            for one, p in zip(tests, holm([one.p for one in tests]), strict=True)
        ),
        nearest=(near[0], near[1]) if near else None,
    )


def _check_counts(members: int, others: int) -> None:
    if min(members, others) < FEWEST:
        raise ZskdError(
            f"there are {members} members and {others} others: give at least {FEWEST} images of each"
        )


def _joined(parts: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat(of) for name, of in parts.items() if of}
