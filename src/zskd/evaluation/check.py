"""A student beside its teacher on a few pictures of the user's own, with or without labels.

Of tens of pictures a percentage alone says little, so every share has its exact 95 % interval (Clopper and
Pearson 1934), which covers at least 95 % whatever the truth. It covers the choice of the pictures, and only
where each was chosen for itself: several pictures of one patient count as fewer.
"""

from __future__ import annotations

from typing import Literal

import torch

from zskd.core.artefact import Artefact, AtLeastOne, Name
from zskd.core.errors import ZskdError
from zskd.core.types import Images, Labels, Logits
from zskd.evaluation.agreement import EstimateRecord
from zskd.evaluation.metrics import check_alike, checked_labels, logits_of
from zskd.evaluation.roc import Area, area_under_curve
from zskd.evaluation.statistics import Share, share_of
from zskd.models.classifier import Classifier

Verdict = Literal["held", "not held", "open"]


class TwoClasses(Artefact):
    """What medicine asks of a network with two classes."""

    positive: Name
    """The class that the network is to find."""
    sensitivity: Share | None
    """Of the positive images, those that are called so; None without any, as the next."""
    specificity: Share | None
    """Of the others, those that are not called positive."""
    area: Area | None
    """Under the ROC curve; None without images of both classes."""


class Labelled(Artefact):
    """Results of one network on labelled pictures."""

    accuracy: Share
    recall: dict[Name, Share]
    """Of the pictures of each class, those that are called so; classes without a picture are absent."""
    two_classes: TwoClasses | None
    """None with more than two classes."""


class Check(Artefact):
    """A student beside its teacher on pictures; shares are percentages with exact 95 % intervals."""

    pictures: AtLeastOne
    agreement: Share
    teacher: Labelled | None
    """None without labels, as the next."""
    student: Labelled | None
    estimate: EstimateRecord | None
    """Of the agreement on real images, made without any; None where there is none."""
    verdict: Verdict | None
    """Whether the estimate held: `open` where the pictures are too few to tell."""

    @property
    def sentence(self) -> str | None:
        """Whether the estimate without data held, in words; None without an estimate."""
        if self.estimate is None:
            return None
        found, of_estimate = self.agreement, f"{self.estimate.low:.1f} to {self.estimate.high:.1f} %"
        if self.verdict == "held":
            return f"The estimate without data held: it is {of_estimate}, and {found} was measured."
        if self.verdict == "open":
            return (
                f"Whether the estimate without data holds is open: it is {of_estimate}, and {found} was "
                "measured, whose interval reaches into it. More pictures would tell."
            )
        side = "below" if found.high < self.estimate.low else "above"
        return f"The estimate without data did not hold: {found} was measured, {side} its {of_estimate}."


def check_student(
    teacher: Classifier,
    student: Classifier,
    images: Images,
    labels: Labels | None = None,
    *,
    positive: str | None = None,
    estimate: EstimateRecord | None = None,
) -> Check:
    """Compare a student with its teacher on pictures.

    Args:
        teacher: run in evaluation mode; not changed.
        student: run in evaluation mode; not changed. It has the teacher's input shape and classes.
        images: (N, C, H, W) in [0, 1].
        labels: class of each image (N,), 0 to K − 1; None: not known.
        positive: name of the positive one of two classes; None: the second.
        estimate: of the agreement on real images, to be judged.

    Raises:
        ZskdError: there are no images, they or their labels do not fit, the networks have different classes,
            or `positive` is not the name of one of two classes.
    """
    check_alike(
        "teacher", (teacher.class_names, teacher.spec.shape), (student.class_names, student.spec.shape)
    )
    answers = logits_of(teacher, images), logits_of(student, images)
    return check_answers(*answers, teacher.class_names, labels, positive=positive, estimate=estimate)


def check_answers(
    teacher: Logits,
    student: Logits,
    class_names: tuple[str, ...],
    labels: Labels | None = None,
    *,
    positive: str | None = None,
    estimate: EstimateRecord | None = None,
) -> Check:
    """Compare the logits of a student with those of its teacher, as `check_student` does.

    Args:
        teacher: logits of N pictures (N, K), on the CPU.
        student: likewise.
        class_names: of the K classes.
        labels: as for `check_student`, and so are the next two.
        positive: name of a class.
        estimate: to be judged.

    Raises:
        ZskdError: as for `check_student`.
    """
    second = _positive(class_names, positive)
    for whose, logits in (("teacher", teacher), ("student", student)):
        if not bool(torch.isfinite(logits).all()):
            raise ZskdError(f"an output of the {whose} is not finite: check its weights, mean and std")
    if labels is not None:
        labels = checked_labels(labels, len(teacher), len(class_names))
    same = teacher.argmax(1) == student.argmax(1)
    agreement = share_of(int(same.sum()), len(same), exact=True)
    of_both = [
        None if labels is None else _labelled(one, labels, class_names, second) for one in (teacher, student)
    ]
    return Check(
        pictures=len(same),
        agreement=agreement,
        teacher=of_both[0],
        student=of_both[1],
        estimate=estimate,
        verdict=None if estimate is None else _verdict(agreement, estimate),
    )


def _verdict(agreement: Share, estimate: EstimateRecord) -> Verdict:
    if estimate.low <= agreement.percent <= estimate.high:
        return "held"
    return "not held" if agreement.high < estimate.low or agreement.low > estimate.high else "open"


def _positive(class_names: tuple[str, ...], name: str | None) -> int | None:
    """Return the index of the positive class; None with more than two classes."""
    if name is not None and (len(class_names) != 2 or name not in class_names):
        which = "is for networks with two classes" if len(class_names) != 2 else f"is {name!r}"
        advice = "leave it out" if len(class_names) != 2 else f"give {' or '.join(class_names)}"
        raise ZskdError(f"--positive {which}: {advice}")
    if len(class_names) != 2:
        return None
    return 1 if name is None else class_names.index(name)


def _labelled(logits: Logits, labels: Labels, class_names: tuple[str, ...], positive: int | None) -> Labelled:
    right = logits.argmax(1) == labels
    recall = {
        name: share_of(int(right[labels == k].sum()), int((labels == k).sum()), exact=True)
        for k, name in enumerate(class_names)
        if bool((labels == k).any())
    }
    two = None
    if positive is not None:
        scores = (logits[:, positive] - logits[:, 1 - positive]).double().numpy()
        both = len(recall) == 2
        two = TwoClasses(
            positive=class_names[positive],
            sensitivity=recall.get(class_names[positive]),
            specificity=recall.get(class_names[1 - positive]),
            area=area_under_curve(scores, (labels == positive).numpy()) if both else None,
        )
    return Labelled(
        accuracy=share_of(int(right.sum()), len(right), exact=True), recall=recall, two_classes=two
    )
